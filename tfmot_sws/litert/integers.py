"""Finds the integers behind float weights that are multiples of a step, one a channel.

A converter that folds a BatchNorm multiplies each channel of a kernel by a factor of its
own. If the kernel's values were integers times one step, they are still integers times one
step within each channel. These steps are read from the weights themselves, so it does not
matter who folded, or into which layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

# The greatest integer of each width, in bits. All grids are symmetric.
LIMITS: Final = {2: 1, 4: 7, 8: 127}
_MAX_INTEGER: Final = 127
# Folding rounds a weight a few times, each time by at most 6e-8 of it.
_ROUNDING: Final = 1e-6


@dataclasses.dataclass(frozen=True)
class Integers:
    """A tensor as integers times steps; `values` differ from it by rounding alone.

    Args:
        integers: int8, the shape of the tensor, of magnitude 127 at most.
        steps: float32, shape (1,), or one for each index along `axis`.
        axis: the axis of the channels; `None` if one step holds for all.
    """

    integers: NDArray[np.int8]
    steps: NDArray[np.float32]
    axis: int | None

    @property
    def bits(self) -> int:
        """The smallest width, 2, 4 or 8 bits, that holds all integers."""
        greatest = int(np.max(np.abs(self.integers.astype(int)), initial=0))
        return next(bits for bits, limit in LIMITS.items() if greatest <= limit)

    @property
    def values(self) -> NDArray[np.float32]:
        """The tensor: each integer times its step, rounded to float32."""
        shape = [1] * self.integers.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        return self.integers.astype(np.float32) * self.steps.reshape(shape)


def find_integers(values: NDArray[np.float32], max_bits: int = 8) -> Integers | None:
    """Finds integers and steps whose products are the values of a tensor.

    Args:
        values: float32, any shape.
        max_bits: the greatest width that the integers may need, 2, 4 or 8.

    Returns:
        One step for the tensor if that is enough, else one a channel along the first axis
        that allows it; `None` if the values are not on such grids, or a step for each
        channel would take as much room as the weights.
    """
    whole = _find(values.reshape(1, -1))
    if whole is not None:
        found = Integers(whole[0].reshape(values.shape), whole[1], None)
        if found.bits <= max_bits:
            return found
    for axis in _axes(values):
        channels = np.moveaxis(values, axis, 0)
        rows = _find(channels.reshape(len(channels), -1))
        if rows is not None:
            integers = np.moveaxis(rows[0].reshape(channels.shape), 0, axis)
            found = Integers(np.ascontiguousarray(integers), rows[1], axis)
            if found.bits <= max_bits:
                return found
    return None


def _axes(values: NDArray[np.float32]) -> Iterable[int]:
    return [a for a, n in enumerate(values.shape) if n > 1 and 2 * n <= values.size]


def _find(channels: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Finds the integers and the step of each row; `None` if a row has none."""
    ratios, scales = [], []
    for row in channels:
        shares = _shares(row)
        scale = None if shares is None else _scale(shares)
        if shares is None or scale is None:
            return None
        ratios.append(shares)
        scales.append(scale)
    aligned = _align(ratios, np.array(scales))
    greatest = np.max(np.abs(channels), axis=1, initial=0).astype(float)
    steps = np.where(greatest > 0, greatest / np.maximum(aligned, 1), 1)
    integers = np.rint(channels / steps[:, None]).astype(np.int8)
    return integers, steps.astype(np.float32)


def _shares(row: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Returns the distinct values as shares of the greatest; `None` if they are too many."""
    most = 2 * _MAX_INTEGER + 1
    # Most tensors that are not on a grid are found out by their first entries.
    if np.unique(row[: 2 * most]).size > most:
        return None
    values = np.unique(row).astype(float)
    greatest = np.max(np.abs(values), initial=0)
    if values.size > most or not np.isfinite(greatest):
        return None
    return values / greatest if greatest else np.zeros(1)


def _scale(ratios: NDArray[np.float64]) -> int | None:
    """Returns the smallest integer that makes all ratios integers, if there is one."""
    scales = np.arange(1, _MAX_INTEGER + 1)
    products = np.outer(scales, ratios)
    deviations = np.max(np.abs(products - np.rint(products)), axis=1)
    fits = np.flatnonzero(deviations <= _ROUNDING * scales)
    return int(scales[fits[0]]) if fits.size else None


def _align(ratios: list[NDArray[np.float64]], scales: NDArray) -> NDArray:
    """Multiplies scales so that the rows share integers, which makes a zipped file smaller.

    A row that holds few of the tensor's values has smaller integers than the others: from
    -100, 0, 50 it has -2, 0, 1. It gets the factor that gives it the most integers of the
    row with the greatest.
    """
    if len(ratios) == 1:
        return scales
    model = int(np.argmax(scales))
    known = np.zeros(2 * _MAX_INTEGER + 1, bool)
    known[np.rint(ratios[model] * scales[model]).astype(int) + _MAX_INTEGER] = True

    def align(row: NDArray[np.float64], scale: int) -> int:
        factors = np.arange(1, scales[model] // scale + 1)
        integers = np.rint(np.outer(factors * scale, row)).astype(int)
        shared = known[integers + _MAX_INTEGER].sum(axis=1)
        return int(scale * factors[np.argmax(shared)])

    return np.array([align(row, scale) for row, scale in zip(ratios, scales, strict=True)])
