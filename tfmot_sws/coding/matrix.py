"""Views a tensor as a matrix of inputs by outputs, as both coders do."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.models.entropy import entropy_bits

_MAX_COLUMNS: Final = 1 << 16

# Indices into a codebook with the value zero in front: 0 is zero, s is value s - 1.
Symbols = NDArray[np.unsignedinteger[Any]]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns rows and columns of the matrix view; the last axis holds the columns.

    Axes of size 1 are ignored, and a vector is a single column. A last axis above 65536 is
    cut into parts: the number of columns is its largest divisor up to 65536.

    Example:
        >>> matrix_shape((5, 5, 20, 50)), matrix_shape((3, 3, 64, 1)), matrix_shape((1, 7))
        ((500, 50), (9, 64), (7, 1))
    """
    size = math.prod(shape)
    axes = [axis for axis in shape if axis != 1]
    if len(axes) < 2 or not size:
        return size, 1
    # A row is coded at once, so rows that take too much memory are cut into equal parts.
    limit = min(axes[-1], _MAX_COLUMNS)
    columns = next(width for width in range(limit, 0, -1) if axes[-1] % width == 0)
    return size // columns, columns


def row_stride(shape: tuple[int, ...], num_linked_units: int) -> int:
    """Returns the distance in rows to an entry's neighbour in space, or R + 1 for none.

    It is one kernel tap in a convolution, one pixel of all channels in the layer after a
    flattened image, and one image row where the inputs may be the pixels of a square
    image.

    Args:
        shape: shape of the tensor.
        num_linked_units: number of output units of the previous tensor.
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
    """Returns the classes of rows (or columns) with the smallest order-0 code length.

    Args:
        counts: non-zero entries of each row, shape (R,).
        width: entries of a row.
        candidates: arrays of class numbers, shape (R,); rows of class 0 are not coded.
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
