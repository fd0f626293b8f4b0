"""Compiling, differentiating and assigning: alike on every backend. Runs on each of them."""

import keras
import numpy as np
import pytest
from keras import ops

from tfmot_sws.backend.compilation import (
    assign_when,
    compiled,
    compiled_step,
    custom_gradient,
    in_slices,
    last_gradient,
    value_and_gradients,
)


def read(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("length", [1, 3, 7, 10])
def test_in_slices_sums_and_joins(length):
    flat = np.arange(7, dtype="float32")

    def square(part):
        assert part.shape[0] <= length
        return ops.sum(part), part**2

    total, squares = in_slices(square, ops.convert_to_tensor(flat), length)
    assert float(read(total)) == flat.sum()
    np.testing.assert_array_equal(read(squares), flat**2)


def in_a_step(function):
    """Runs `function` as a training step does: stateless and traced on JAX, else in a graph."""
    if keras.backend.backend() == "jax":
        import jax

        def run(variables):
            def step(values):
                with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
                    function()
                return [scope.get_current_value(v) for v in variables]

            for variable, value in zip(
                variables, jax.jit(step)([v.value for v in variables]), strict=True
            ):
                variable.assign(value)

        return run
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        graph = tf.function(function)
        return lambda _: graph()
    return lambda _: function()


@pytest.mark.parametrize("in_compiled", [False, True])
@pytest.mark.parametrize("traced", [False, True])
def test_assign_when_assigns_all_or_nothing(traced, in_compiled):
    due = keras.Variable(0.0, trainable=False)
    first, second = (keras.Variable(v, trainable=False) for v in ([1.0, 2.0], [[3.0]]))

    def step():
        with compiled_step(in_compiled):
            assign_when(
                due.value > 0.5,
                [first, second],
                lambda: [first.value + 10.0, ops.reshape(ops.sum(first.value), (1, 1))],
            )

    run = in_a_step(step) if traced else lambda _: step()
    run([due, first, second])
    np.testing.assert_array_equal(read(first), [1, 2])
    np.testing.assert_array_equal(read(second), [[3]])
    due.assign(1.0)
    run([due, first, second])
    np.testing.assert_array_equal(read(first), [11, 12])
    # Of what it was before: all is computed, then assigned.
    np.testing.assert_array_equal(read(second), [[3]])


def test_value_and_gradients():
    a, b = ops.convert_to_tensor([1.0, 2.0]), ops.convert_to_tensor(3.0)
    unused = ops.convert_to_tensor([5.0])
    value, gradients = value_and_gradients(lambda a, b, _: ops.sum(a * a) * b, [a, b, unused])
    assert float(read(value)) == 15.0
    for found, expected in zip(gradients, ([6.0, 12.0], 5.0, [0.0]), strict=True):
        np.testing.assert_allclose(read(found), expected)


def test_custom_gradient_of_several_outputs():
    @custom_gradient
    def doubled(a, b):
        return [a + b, a * b], lambda upstream: [2.0 * upstream[0], 3.0 * upstream[1]]

    def total(a, b):
        first, second = doubled(a, b)
        return ops.sum(first) + 10.0 * ops.sum(second)

    a, b = ops.convert_to_tensor([1.0, 2.0]), ops.convert_to_tensor([3.0, 4.0])
    value, (to_a, to_b) = value_and_gradients(total, [a, b])
    assert float(read(value)) == 10.0 + 110.0
    np.testing.assert_allclose(read(to_a), [2, 2])
    np.testing.assert_allclose(read(to_b), [30, 30])


def test_last_gradient_changes_neither_value_nor_gradient():
    def total(first, last):
        first, last = last_gradient(first, last)
        return ops.sum(first * first) + 3.0 * last

    first, last = ops.convert_to_tensor([-1.0, 2.0]), ops.convert_to_tensor(5.0)
    value, (to_first, to_last) = value_and_gradients(total, [first, last])
    assert float(read(value)) == 20.0
    np.testing.assert_array_equal(read(to_first), [-2, 4])
    assert float(read(to_last)) == 3.0


def test_compiled_functions_take_nested_tensors_and_variables_of_any_shape():
    @compiled
    def dot(pairs, factor):
        return sum(ops.sum(a * b) for a, b in pairs) * factor

    for size in (1, 3):
        one = keras.Variable(np.ones(size, "float32"))
        pairs = [(one.value, ops.arange(size, dtype="float32")), (one.value, one.value)]
        assert (
            float(read(dot(pairs, ops.convert_to_tensor(2.0)))) == size * (size - 1) + 2 * size
        )
