"""Lays small tensors out as the rows of one matrix, so that one program serves them all.

A program that names each tensor grows with their number, and with it the time to trace and
to compile it: a minute for a hundred tensors. Rows also make tensors of other shapes look
alike, so that one program serves other models as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

Tensor = Any

# Tensors of fewer entries share a matrix. Others would gain less than a copy costs.
SMALL = 1 << 14
LENGTH = 128


class Rows:
    """A matrix whose rows hold parts of tensors, padded with zeros.

    Args:
        positions: of the tensors in a list.
        shapes: of the tensors.
        length: of a row; the last of each tensor's rows may be padded.
        num_rows: of the matrix, at least as many as the tensors fill.

    Attributes:
        positions: as given.
        owners: the position of the tensor that each row belongs to, int32, shape (R,); rows
            that are all padding belong to the last.
    """

    def __init__(
        self,
        positions: Sequence[int],
        shapes: Sequence[tuple[int, ...]],
        length: int,
        num_rows: int,
    ) -> None:
        self.positions = list(positions)
        self._shapes = [tuple(shapes[i]) for i in positions]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self._length, self._num_rows = length, num_rows
        counts = [-(-size // length) for size in self._sizes]
        counts[-1] += num_rows - sum(counts)
        self.owners = np.repeat(np.asarray(positions, np.int32), counts)
        self._padding = [
            count * length - size for count, size in zip(counts, self._sizes, strict=True)
        ]

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """The matrix, (R, length), of those of all tensors that it is for."""
        pieces = []
        for i, padding in zip(self.positions, self._padding, strict=True):
            pieces.append(ops.reshape(tensors[i], (-1,)))
            if padding:
                pieces.append(ops.zeros((padding,), tensors[i].dtype))
        flat = ops.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return ops.reshape(flat, (self._num_rows, self._length))

    def unpack(self, rows: Tensor) -> list[Tensor]:
        """The tensors, in the order of `positions`; the inverse of `pack`."""
        flat = ops.reshape(rows, (-1,))
        pairs = zip(self._sizes, self._padding, strict=True)
        lengths = [length for pair in pairs for length in pair]
        ends = list(itertools.accumulate(lengths))[:-1]
        pieces = ops.split(flat, ends)[::2]
        return [ops.reshape(p, shape) for p, shape in zip(pieces, self._shapes, strict=True)]


def lay_out(shapes: Sequence[tuple[int, ...]], below: int = SMALL) -> list[Rows]:
    """Lays tensors out in matrices: small ones share one, others have one row each.

    Args:
        shapes: of the tensors, which may be empty.
        below: tensors of fewer entries are small.
    """
    sizes = [math.prod(shape) for shape in shapes]
    small = [i for i, size in enumerate(sizes) if size < below]
    # A row of an empty tensor holds padding.
    alone = [Rows([i], shapes, max(n, 1), 1) for i, n in enumerate(sizes) if n >= below]
    if not small:
        return alone
    num_rows = _round_up(sum(-(-sizes[i] // LENGTH) for i in small))
    return [Rows(small, shapes, LENGTH, num_rows), *alone]


def _round_up(number: int) -> int:
    """The next number of three leading bits, at most a quarter above: few sizes in all."""
    unit = 1 << max(0, number.bit_length() - 3)
    return -(-number // unit) * unit
