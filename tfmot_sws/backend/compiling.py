"""Compiles functions: by themselves on TensorFlow, as part of a step elsewhere.

XLA makes the prior ten times faster and a CPU's convolutions two times slower. So functions of
the prior are compiled by themselves, and `compile(jit_compile="auto")` of the wrapper leaves
the step alone on a CPU. They are several functions on purpose: in a single one XLA computes a
value again for each of its readers.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras

_compiled_step = contextvars.ContextVar("compiled_step", default=False)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function of tensors with XLA on the TensorFlow backend.

    JAX compiles the whole step anyway, and torch runs the function as it stands.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    return program_a_shape(function, jit_compile=True)


def program_a_shape(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Makes programs of a function of tensors, on the TensorFlow backend.

    One a shape, each called directly, because TensorFlow warns when the function that it
    makes programs of sees one shape after the other.

    Args:
        function: takes tensors, also nested.
        options: as of `tf.function`.
    """
    import tensorflow as tf

    traced = tf.function(function, autograph=False, **options)
    programs: dict[str, Any] = {}

    @functools.wraps(function)
    def call(*tensors: Any) -> Any:
        tensors = _values(tensors)
        specs = keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), tensors)
        key = repr(specs)
        if key not in programs:
            programs[key] = traced.get_concrete_function(*specs)
        return programs[key](*tensors)

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

    program = tf.function(function, autograph=False)

    @functools.wraps(function)
    def call(*tensors: Any) -> Any:
        return program(*_values(tensors))

    return call


def _values(tensors: Any) -> Any:
    """Values of variables: a trace would hold on to a variable that it was made with.

    So a program of one model would use the first model's variables with the next. The
    function of Keras gives a variable back as it is.
    """
    import tensorflow as tf

    def value(tensor: Any) -> Any:
        return None if tensor is None else tf.convert_to_tensor(tensor)

    return keras.tree.map_structure(value, tensors)


@contextlib.contextmanager
def compiled_step(compiled: bool) -> Iterator[None]:
    """Says whether XLA compiles as a whole the step that is traced inside this context."""
    token = _compiled_step.set(compiled)
    try:
        yield
    finally:
        _compiled_step.reset(token)


def in_compiled_step() -> bool:
    """Whether the code is part of a step that XLA compiles as a whole, as always on JAX.

    It decides only in which order a step computes, never what.
    """
    return keras.backend.backend() == "jax" or _compiled_step.get()
