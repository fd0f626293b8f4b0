"""Compiling and differentiating: alike on every backend. Runs on each of them."""

import keras
import numpy as np
import pytest
from keras import ops

from tfmot_sws.backend.compiling import compiled, traced
from tfmot_sws.backend.gradients import custom_gradient, last_gradient, value_and_gradients
from tfmot_sws.backend.slices import in_slices


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


def test_traced_takes_nested_tensors_and_gives_what_the_function_gives():
    @traced
    def moments(pairs, factor):
        return [factor * sum(ops.sum(a * b) for a, b in pairs), pairs[0][0]]

    ones, twos = (ops.convert_to_tensor([value, value]) for value in (1.0, 2.0))
    total, first = moments([(ones, twos), (twos, twos)], ops.convert_to_tensor(0.5))
    assert float(read(total)) == 6.0
    np.testing.assert_array_equal(read(first), [1, 1])


def test_value_and_gradients():
    a, b = ops.convert_to_tensor([1.0, 2.0]), ops.convert_to_tensor(3.0)
    unused = ops.convert_to_tensor([5.0])
    value, gradients = value_and_gradients(lambda a, b, _: ops.sum(a * a) * b, [a, b, unused])
    assert float(read(value)) == 15.0
    for found, expected in zip(gradients, ([6.0, 12.0], 5.0, [0.0]), strict=True):
        np.testing.assert_allclose(read(found), expected)


def test_custom_gradient_of_several_outputs():
    doubled = custom_gradient(
        lambda a, b: [a + b, a * b],
        lambda upstream, *_: [2.0 * upstream[0], 3.0 * upstream[1]],
    )

    def total(a, b):
        first, second = doubled(a, b)
        return ops.sum(first) + 10.0 * ops.sum(second)

    a, b = ops.convert_to_tensor([1.0, 2.0]), ops.convert_to_tensor([3.0, 4.0])
    value, (to_a, to_b) = value_and_gradients(total, [a, b])
    assert float(read(value)) == 10.0 + 110.0
    np.testing.assert_allclose(read(to_a), [2, 2])
    np.testing.assert_allclose(read(to_b), [30, 30])


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only TensorFlow keeps them"
)
def test_a_gradient_by_hand_is_kept_once_a_shape():
    """TensorFlow keeps each for ever, together with the graph that it was made in."""
    import tensorflow as tf
    from tensorflow.python.framework.ops import gradient_registry

    doubled = custom_gradient(lambda a: [a + a], lambda upstream, _: [2.0 * upstream[0]])

    def count_after_step(size):
        step = tf.function(lambda a: value_and_gradients(lambda a: doubled(a)[0][0], [a])[1])
        np.testing.assert_array_equal(read(step(tf.ones(size))[0])[0], 2.0)
        return len(gradient_registry.list())

    first = count_after_step(2)
    assert count_after_step(2) == first
    assert count_after_step(3) == first + 1


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


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow warns")
def test_many_shapes_in_a_row_are_no_reason_to_warn(caplog, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    doubled = compiled(lambda a: a + a)
    for size in range(1, 12):
        np.testing.assert_array_equal(read(doubled(tf.ones(size))), 2.0)
    assert not caplog.messages
