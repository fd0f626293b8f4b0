"""Compilation of single functions where the surrounding step is not compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras


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
