"""Rounds numbers to few significant bits, in the training graph, on every backend alike."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from keras import ops

Tensor = Any

# Powers of two below 2^-60 and above 2^60 are not told apart: quotients stay finite.
_EXPONENTS: Final = 60


def power_of_two(values: Tensor) -> Tensor:
    """The largest power of two that is no larger than each value, up to rounding of log2.

    From a table: what backends make of 2^n is not exact.
    """
    table = np.ldexp(np.float32(1), np.arange(-_EXPONENTS, _EXPONENTS + 1))
    exponents = ops.floor(ops.log2(ops.maximum(values, np.float32(2.0**-_EXPONENTS))))
    # Bounds on the integers: a NaN may become any.
    places = ops.clip(ops.cast(exponents, "int32") + _EXPONENTS, 0, 2 * _EXPONENTS)
    return ops.take(ops.convert_to_tensor(table), places)


def round_significant(values: Tensor, bits: int) -> Tensor:
    """Values rounded to a number of significant bits; exact, whatever log2 rounds to.

    Example:
        >>> import numpy as np
        >>> [float(v) for v in round_significant(np.float32([1.3, -0.29, 0.0]), 3)]
        [1.25, -0.3125, 0.0]
    """
    step = power_of_two(ops.abs(values)) * 2.0 ** (1 - bits)
    return ops.round(values / step) * step


def rounded_straight_through(values: Tensor, bits: int) -> Tensor:
    """`round_significant` of float32 values, with a gradient as if nothing was rounded."""
    unchanged = values - ops.stop_gradient(values)
    return ops.stop_gradient(round_significant(values, bits)) + unchanged
