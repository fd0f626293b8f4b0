"""How the coders look at a tensor: as a matrix of inputs by outputs."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.models.codebook import entropy_bits

_MAX_COLUMNS: Final = 1 << 16

# Numbers of codebook values; 0 is the value zero.
Symbols = NDArray[np.unsignedinteger[Any]]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the matrix view: the last axis of size above 1 is the column.

    A vector, which has one axis of size above 1, is a single column. A last axis above
    65536 is cut into parts: its largest divisor up to there is the number of columns.

    Example:
        >>> matrix_shape((5, 5, 20, 50)), matrix_shape((3, 3, 64, 1)), matrix_shape((1, 7))
        ((500, 50), (9, 64), (7, 1))
    """
    size = math.prod(shape)
    axes = [axis for axis in shape if axis != 1]
    if len(axes) < 2 or not size:
        return size, 1
    # A row is coded at once: rows that would not fit are cut into equal parts.
    limit = min(axes[-1], _MAX_COLUMNS)
    columns = next(width for width in range(limit, 0, -1) if axes[-1] % width == 0)
    return size // columns, columns


def row_stride(shape: tuple[int, ...], num_linked_units: int) -> int:
    """Distance in rows to the entry's neighbour in space, or R + 1 where there is none.

    That is one kernel tap for convolutions; one pixel of all the channels for the
    layer after a flattened image; one image row where the inputs may be the pixels of
    a square image.

    Args:
        shape: shape of the tensor.
        num_linked_units: number of columns of the matrix before this one.
    """
    rows, columns = matrix_shape(shape)
    candidates = [
        shape[-2] if len(shape) > 2 else 0,
        num_linked_units if rows % max(1, num_linked_units) == 0 else 0,
        math.isqrt(rows) if math.isqrt(rows) ** 2 == rows and columns > 1 else 0,
    ]
    return next((stride for stride in candidates if 2 <= stride < rows), rows + 1)


def cheapest_classes(
    counts: NDArray[np.integer], width: int, candidates: list[NDArray[np.int32]]
) -> NDArray[np.int32]:
    """The classification of rows (or columns) that pays best, as coded at order 0.

    Args:
        counts: non-zero entries of each row, shape (R,).
        width: entries of a row.
        candidates: arrays of shape (R,) of class numbers; 0 is for rows not coded.
    """

    def bits(classes: NDArray[np.int32]) -> float:
        rows = np.bincount(classes)
        totals = np.bincount(classes, counts)
        entries = sum(
            entropy_bits([total, size * width - total]) * size * width
            for total, size in zip(totals[1:], rows[1:], strict=True)
        )
        return entropy_bits(rows) * counts.size + entries

    return min(candidates, key=bits)
