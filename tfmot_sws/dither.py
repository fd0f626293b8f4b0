"""Noise for the assignment: the same numbers on every backend, device and replica."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

Tensor = Any

# Multipliers of a well-mixing integer hash, as int32; products wrap around.
_SPREAD = 0x9E3779B1 - (1 << 32)
_MIX = (0x85EBCA77 - (1 << 32), 0xC2B2AE3D - (1 << 32))


def dither(shape: tuple[int, ...], seed: Tensor) -> Tensor:
    """Uniform noise in [-1/2, 1/2), a pure function of place and seed.

    A hash of each entry's number takes a few instructions and vectorises within the loop
    that uses it, where a generator with a state costs more than the whole assignment.
    Replicas and resumed trainings see the same noise without exchanging any.

    Args:
        shape: of the noise; static.
        seed: int32 scalar tensor, another one for other noise.

    Returns:
        float32 tensor.
    """
    size = math.prod(shape)
    value = ops.arange(size, dtype="int32") * _SPREAD + seed
    for shift, factor in zip((15, 13), _MIX, strict=True):
        value = ops.bitwise_xor(value, _shift_right(value, shift)) * factor
    value = ops.bitwise_and(ops.bitwise_xor(value, _shift_right(value, 16)), (1 << 24) - 1)
    return ops.reshape(ops.cast(value, "float32") * 2.0**-24 - 0.5, shape)


def seed_of(step: Tensor, position: int) -> Tensor:
    """A seed for the tensor at a position in its list, at a step of the training.

    Args:
        step: scalar tensor, a whole number.
        position: >= 0.
    """
    return (ops.cast(step, "int32") * 1021 + position) * _MIX[0]


def _shift_right(value: Tensor, places: int) -> Tensor:
    """Shift of an int32 that fills up with zeros."""
    return ops.bitwise_and(ops.right_shift(value, places), (1 << (32 - places)) - 1)
