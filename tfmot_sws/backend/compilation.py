"""What differs between Keras' backends: compiling and differentiating a function."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function of tensors with XLA on the TensorFlow backend.

    The prior gains a factor of ten from XLA while convolutions on the CPU lose one of
    two, so the prior is compiled by itself and the training step is left as it is.
    JAX compiles the whole step anyway; other backends run the function as it stands.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    # Of each shape a function of its own: TensorFlow warns when one sees many of them.
    @functools.cache
    def of_shapes(_shapes: tuple[tuple[int, ...], ...]) -> Callable[..., Any]:
        return tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*tensors: Any) -> Any:
        # Variables as values: a trace would hold on to the variable of tf.distribute that it
        # was made with, and hand one model's schedules to the next.
        tensors = keras.tree.map_structure(tf.convert_to_tensor, tensors)
        leaves = keras.tree.flatten(tensors)
        return of_shapes(tuple(tuple(leaf.shape) for leaf in leaves))(*tensors)

    return call


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes one program of a function of tensors, to be called outside of a step.

    On TensorFlow it is a graph, whose compiled parts run side by side; on JAX XLA compiles
    it as a whole; torch runs it as it stands, without gradients.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    import tensorflow as tf

    return tf.function(function, autograph=False)


_compiled_step = contextvars.ContextVar("compiled_step", default=False)


@contextlib.contextmanager
def compiled_step(compiled: bool) -> Iterator[None]:
    """Within it, a training step is traced that XLA compiles as a whole, or does not."""
    token = _compiled_step.set(compiled)
    try:
        yield
    finally:
        _compiled_step.reset(token)


def in_compiled_step() -> bool:
    """Whether XLA compiles all that this is part of; JAX always does.

    It decides only how a step is written down, not what it computes.
    """
    return keras.backend.backend() == "jax" or _compiled_step.get()


def custom_gradient(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """A function of tensors with a gradient of its own; as `keras.ops.custom_gradient`.

    That one allows a single output on torch, and hands a list of several on in another
    form on every backend.

    Args:
        function: takes tensors; returns a list of tensors, and a function that takes the
            list of their gradients and returns a list with that of each argument.

    Returns:
        A function of tensors that returns a list of tensors.
    """
    if keras.backend.backend() == "torch":
        return functools.partial(_torch_function().apply, function)

    @ops.custom_gradient
    def differentiable(*tensors: Any) -> tuple[list[Any], Callable[..., list[Any]]]:
        outputs, gradient = function(*tensors)
        return outputs, lambda *upstream: gradient(keras.tree.flatten(upstream))

    return differentiable


def with_gradients(value: Any, tensors: list[Any], gradients: list[Any]) -> Any:
    """The value, which hands the given gradients on to the tensors, times its own.

    Args:
        value: scalar; a gradient of its own is handed on as well.
        tensors: of any shapes; not read.
        gradients: one for each of them, of its shape.
    """

    @custom_gradient
    def linked(value: Any, *_: Any) -> tuple[list[Any], Any]:
        def gradient(upstream: list[Any]) -> list[Any]:
            return [upstream[0], *(upstream[0] * g for g in gradients)]

        return [value], gradient

    return linked(value, *tensors)[0]


def last_gradient(first: Any, last: Any) -> tuple[Any, Any]:
    """The two as they are, but the gradient of `last` is there only after that of `first`.

    Args:
        first: float tensor of at least one entry and rank 1.
        last: float scalar tensor.
    """

    @custom_gradient
    def linked(first: Any, last: Any) -> tuple[list[Any], Any]:
        def gradient(upstream: list[Any]) -> list[Any]:
            to_first, to_last = upstream
            # Zero, which no compiler knows before it knows the gradient.
            return [to_first, to_last + ops.minimum(ops.abs(to_first[0]), 0.0)]

        return [first, last], gradient

    first, last = linked(first, last)
    return first, last


@functools.cache
def _torch_function() -> Any:
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, function: Callable[..., Any], *tensors: Any) -> Any:
            outputs, ctx.gradient = function(*tensors)
            return tuple(outputs)

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            return None, *ctx.gradient(list(upstream))

    return Function


def in_slices(
    function: Callable[[Any], tuple[Any, Any]], flat: Any, length: int
) -> tuple[Any, Any]:
    """A function of a flat tensor, slice by slice.

    Args:
        function: takes a slice; returns a tensor, of the same shape for all of them, and one
            of the slice's shape.
        flat: tensor of rank 1, not empty.
        length: of a slice, >= 1; the last may be shorter.

    Returns:
        The sum of the first results; the second ones joined, of the shape of `flat`.
    """
    starts = range(0, flat.shape[0], length)
    if keras.backend.backend() != "jax":
        # On TensorFlow each is a program of its own, and they run side by side.
        sums, parts = zip(*(function(flat[i : i + length]) for i in starts), strict=True)
        return sum(sums), ops.concatenate(parts)
    # One program would run all of them at once, and hold what each computes in between.
    last = starts[-1]
    rows = ops.reshape(flat[:last], (-1, length))
    total, part = function(flat[last:])

    def add(total: Any, row: Any) -> tuple[Any, Any]:
        more, part = function(row)
        return total + more, part

    total, parts = ops.scan(add, total, rows)
    return total, ops.concatenate([ops.reshape(parts, (-1,)), part])


def bits_of(numbers: Any) -> Any:
    """The bits of float32 numbers, as int32 of the same shape; `keras.ops.view` as of 3.12."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.lax.bitcast_convert_type(numbers, "int32")
    if backend == "torch":
        import torch

        return numbers.view(torch.int32)
    import tensorflow as tf

    return tf.bitcast(numbers, tf.int32)


def value_and_gradients(
    function: Callable[..., Any], arguments: Sequence[Any]
) -> tuple[Any, list[Any]]:
    """A scalar function of tensors, and its gradient in each of them.

    Args:
        function: takes the arguments, returns a scalar tensor.
        arguments: floating-point tensors.

    Returns:
        The scalar, and a tensor for each argument, of its shape; zeros for one that has
        no part in it.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        every = tuple(range(len(arguments)))
        value, gradients = jax.value_and_grad(function, argnums=every)(*arguments)
        return value, list(gradients)
    if backend == "torch":
        import torch

        with torch.enable_grad():
            leaves = [argument.detach().requires_grad_() for argument in arguments]
            value = function(*leaves)
            gradients = torch.autograd.grad(value, leaves, materialize_grads=True)
            return value.detach(), list(gradients)
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(arguments)
        value = function(*arguments)
    return value, tape.gradient(
        value, list(arguments), unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
