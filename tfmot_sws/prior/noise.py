"""Noise for the assignment: the same numbers on every backend, device and replica."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

Tensor = Any

# Odd multipliers as int32; products wrap around. The first, of the golden ratio, spreads
# neighbours evenly; the second carries every bit into the highest.
_SPREAD = 0x9E3779B1 - (1 << 32)
_MIX = 0x297A2D39
_SEED = 0x85EBCA77 - (1 << 32)


def uniform_noise(shape: tuple[int, ...], seed: Tensor) -> Tensor:
    """Uniform noise in [-1/2, 1/2], a pure function of an entry's number and the seed.

    A hash of the number takes a few instructions and vectorises within the loop that uses
    it; a generator with a state costs more than the whole assignment. One round of mixing
    leaves no correlation that a quarter of a million numbers would show. Replicas and
    resumed trainings see the same noise without exchanging anything.

    Args:
        shape: of the noise; static.
        seed: int32 scalar tensor; another seed gives other noise.

    Returns:
        float32 tensor.
    """
    value = ops.arange(math.prod(shape), dtype="int32") * _SPREAD + seed
    value = ops.bitwise_xor(value, ops.right_shift(value, 15)) * _MIX
    return ops.reshape(ops.cast(value, "float32") * 2.0**-32, shape)


def seed_of(step: Tensor, position: int) -> Tensor:
    """A seed for the tensor at a position in its list, at a step of the training.

    Args:
        step: scalar tensor, a whole number.
        position: >= 0.
    """
    return (ops.cast(step, "int32") * 1021 + position) * _SEED
