"""Gradients: of a function, given by hand, and in a set order; alike on every backend."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


def custom_gradient(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Gives a function of tensors a gradient by hand, like `keras.ops.custom_gradient`.

    The function of Keras allows a single output on torch, and passes a list of several in a
    different form on each backend.

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
    """Gives a value gradients in some tensors, without computing it from them.

    Args:
        value: scalar; its own gradient passes through.
        tensors: of any shapes; not read.
        gradients: one for each of the tensors, of its shape.
    """

    @custom_gradient
    def linked(value: Any, *_: Any) -> tuple[list[Any], Any]:
        def gradient(upstream: list[Any]) -> list[Any]:
            return [upstream[0], *(upstream[0] * g for g in gradients)]

        return [value], gradient

    return linked(value, *tensors)[0]


def last_gradient(first: Any, last: Any) -> tuple[Any, Any]:
    """Returns two tensors unchanged; the gradient of `last` comes after that of `first`.

    XLA updates a weight in place only if nothing may still read it. The order ensures that
    readers of the weights come before the update.

    Args:
        first: float tensor of at least one entry and rank 1.
        last: float scalar tensor.
    """

    @custom_gradient
    def linked(first: Any, last: Any) -> tuple[list[Any], Any]:
        def gradient(upstream: list[Any]) -> list[Any]:
            to_first, to_last = upstream
            # Always 0, but the compiler cannot prove it, so it keeps the order.
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
