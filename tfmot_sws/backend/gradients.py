"""Gradients: of a function, given by hand, and in a set order; alike on every backend."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfmot_sws.backend.compiling import program_a_shape


def custom_gradient(
    function: Callable[..., list[Any]], gradient: Callable[..., list[Any]]
) -> Callable[..., list[Any]]:
    """Gives a function of tensors a gradient by hand.

    Unlike `keras.ops.custom_gradient` it takes several outputs on every backend. And on
    TensorFlow, which never forgets a gradient nor the graph that it was made in, each is made
    once a shape, in a graph of its own: otherwise every model trained would stay in memory.

    Args:
        function: takes tensors, also nested; returns a list of tensors. It must be pure, and
            so must be `gradient`: neither may refer to a tensor that is no argument.
        gradient: takes the list of the results' gradients, then the arguments; returns a
            list with the gradient of each tensor in the arguments, `None` for 0.

    Returns:
        A function of the same arguments and results.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return program_a_shape(_linked_by_tensorflow(function, gradient))

    def call(*arguments: Any) -> list[Any]:
        def flat_function(*leaves: Any) -> list[Any]:
            return function(*keras.tree.pack_sequence_as(arguments, leaves))

        def flat_gradient(upstream: list[Any], leaves: Sequence[Any]) -> list[Any]:
            return gradient(upstream, *keras.tree.pack_sequence_as(arguments, leaves))

        link = _linked_by_jax if backend == "jax" else _linked_by_torch
        return list(link(flat_function, flat_gradient)(*keras.tree.flatten(arguments)))

    return call


def _linked_by_tensorflow(
    function: Callable[..., list[Any]], gradient: Callable[..., list[Any]]
) -> Callable[..., list[Any]]:
    import tensorflow as tf

    def linked(*arguments: Any) -> list[Any]:
        @tf.custom_gradient
        def differentiable(*leaves: Any) -> tuple[list[Any], Callable[..., list[Any]]]:
            packed = keras.tree.pack_sequence_as(arguments, leaves)
            return function(*packed), lambda *upstream: gradient(list(upstream), *packed)

        return list(differentiable(*keras.tree.flatten(arguments)))

    return linked


def _linked_by_jax(
    function: Callable[..., list[Any]],
    gradient: Callable[[list[Any], Sequence[Any]], list[Any]],
) -> Callable[..., list[Any]]:
    import jax

    differentiable = jax.custom_vjp(function)
    differentiable.defvjp(
        lambda *leaves: (function(*leaves), leaves),
        lambda leaves, upstream: tuple(gradient(upstream, leaves)),
    )
    return differentiable


def _linked_by_torch(
    function: Callable[..., list[Any]],
    gradient: Callable[[list[Any], Sequence[Any]], list[Any]],
) -> Callable[..., list[Any]]:
    return functools.partial(_torch_function().apply, function, gradient)


def with_gradients(value: Any, tensors: list[Any], gradients: list[Any]) -> Any:
    """Gives a value gradients in some tensors, without computing it from them.

    Args:
        value: scalar; its own gradient passes through.
        tensors: of any shapes; not read.
        gradients: one for each of the tensors, of its shape.
    """
    return _with_given_gradients(value, tensors, gradients)[0]


def last_gradient(first: Any, last: Any) -> tuple[Any, Any]:
    """Returns two tensors unchanged; the gradient of `last` comes after that of `first`.

    XLA updates a weight in place only if nothing may still read it. The order ensures that
    readers of the weights come before the update.

    Args:
        first: float tensor of at least one entry and rank 1.
        last: float scalar tensor.
    """
    first, last = _ordered(first, last)
    return first, last


@functools.cache
def _torch_function() -> Any:
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, function: Any, gradient: Any, *tensors: Any) -> Any:
            ctx.gradient = gradient
            ctx.save_for_backward(*tensors)
            return tuple(function(*tensors))

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> Any:
            return None, None, *ctx.gradient(list(upstream), ctx.saved_tensors)

    return Function


def _given_gradients(upstream: list[Any], *arguments: Any) -> list[Any]:
    _, _, gradients = arguments
    return [upstream[0], *(upstream[0] * g for g in gradients), *(None for _ in gradients)]


_with_given_gradients = custom_gradient(lambda value, *_: [value], _given_gradients)


def _ordered_gradient(upstream: list[Any], *_: Any) -> list[Any]:
    to_first, to_last = upstream
    # Always 0, but the compiler cannot prove it, so it keeps the order.
    return [to_first, to_last + ops.minimum(ops.abs(to_first[0]), 0.0)]


_ordered = custom_gradient(lambda first, last: [first, last], _ordered_gradient)


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
    gradients = tape.gradient(
        value, list(arguments), unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # The gradient of an embedding comes as a list of rows.
    return value, [tf.convert_to_tensor(gradient) for gradient in gradients]
