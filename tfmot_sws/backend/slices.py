"""Reads large tensors slice by slice, and the bits of numbers; alike on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def in_slices(
    function: Callable[[Any], tuple[Any, Any]], flat: Any, length: int
) -> tuple[Any, Any]:
    """Calls a function on a flat tensor slice by slice.

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
        # On TensorFlow each slice is one program, and several run at the same time.
        sums, parts = zip(*(function(flat[i : i + length]) for i in starts), strict=True)
        return sum(sums), ops.concatenate(parts)
    # A loop, because one program would run all slices at once and hold all their temporaries.
    last = starts[-1]
    rows = ops.reshape(flat[:last], (-1, length))
    total, part = function(flat[last:])

    def add(total: Any, row: Any) -> tuple[Any, Any]:
        more, part = function(row)
        return total + more, part

    total, parts = ops.scan(add, total, rows)
    return total, ops.concatenate([ops.reshape(parts, (-1,)), part])


def bits_of(numbers: Any) -> Any:
    """Reads the bits of float32 numbers as int32; `keras.ops.view` does this from 3.12 on."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.lax.bitcast_convert_type(numbers, "int32")
    if backend == "torch":
        import torch

        return numbers.view(torch.int32)
    import tensorflow as tf

    return tf.bitcast(numbers, tf.int32)
