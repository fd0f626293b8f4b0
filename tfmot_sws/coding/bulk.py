"""Codes large index tensors fast, a block of rows at a time.

The model consists of counts: those of a context give the probability of a non-zero, and
those of the values so far give the probability of each value. The counts stay fixed while
a block is coded, so that a whole block takes one call into `constriction`. A context is
made of data that the decoder already has: the density class of the row (sent first), the
density of the column so far, and the entries one and two strides above. All counts are
integers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.matrix import Symbols, cheapest_classes
from tfmot_sws.coding.range_coder import SymbolCoder, frequencies

_BLOCK_ENTRIES: Final = 1 << 13
# The density class of a row or column is 1 plus the number of bounds b for which its density
# is at least b / 12 of the mean density; class 0 is a row without a non-zero entry.
_BOUNDS: Final = np.array([3, 6, 9, 11, 13, 16, 24, 48])
_NUM_CLASSES: Final = len(_BOUNDS) + 2
_MEAN_CLASS: Final = 5
# A new context starts as if it had seen _PRIOR entries of average density.
_PRIOR: Final = 8
_UNIT: Final = 1 << 12
_NUM_CONTEXTS: Final = _NUM_CLASSES * _NUM_CLASSES * 4


class BulkIndexCoder:
    """Codes one large index matrix; writing and reading run the same steps.

    Args:
        coder: a `SymbolEncoder` or a `SymbolDecoder`.
        symbols: shape (R, C), numbers below `num_symbols`; all 0 in a decoder, which
            fills it in place.
        num_symbols: size of the alphabet, symbol 0 included.
        stride: distance in rows to a neighbour; more than R if there is none.
    """

    def __init__(
        self, coder: SymbolCoder, symbols: Symbols, num_symbols: int, stride: int
    ) -> None:
        self._coder = coder
        self._symbols = symbols
        self._columns = self._code_columns()
        self._has_all_columns = self._columns.size == symbols.shape[1]
        self._max_block = max(1, _BLOCK_ENTRIES // max(1, self._columns.size))
        self._stride = stride if stride < len(symbols) else 1
        self._column_counts = np.zeros(self._columns.size, np.int64)
        self._row_classes = np.ones(_NUM_CLASSES, np.int64)
        self._zero_counts = np.zeros((_NUM_CONTEXTS, 2), np.int64)
        # Of all contexts together, and one each.
        self._overall = np.ones(2, np.int64)
        self._value_counts = np.ones(num_symbols - 1, np.int64)

    def code(self) -> None:
        """Codes the whole matrix."""
        classes = _row_classes(self._symbols, self._columns.size)
        start = 0
        while start < len(classes):
            # The first blocks are small, since the counts hold little information yet.
            self._block = max(1, min(self._max_block, start // 4))
            self._code_block(start, classes[start : start + self._block])
            start += self._block

    def _code_columns(self) -> NDArray[np.intp]:
        """Codes and returns the numbers of the columns with a non-zero entry."""
        counts = np.count_nonzero(self._symbols, axis=0)
        alive = (counts > 0).astype(np.int32)
        flags = cheapest_classes(counts, len(self._symbols), [np.ones_like(alive), alive])
        share = np.array([15 * flags.sum() // max(1, flags.size)], np.int32)
        share = 2 * self._coder.code(share, np.ones(16, np.int64))[0] + 1
        return np.flatnonzero(self._coder.code(flags, np.array([32 - share, share])))

    def _code_block(self, start: int, classes: NDArray[np.int32]) -> None:
        classes = self._coder.code(classes, frequencies(self._row_classes))
        self._row_classes += np.bincount(classes, minlength=_NUM_CLASSES)
        live = np.flatnonzero(classes)
        rows = start + live
        if not rows.size or not self._columns.size:
            return
        block = self._take(rows).reshape(-1)
        contexts = self._contexts(rows, classes[live])
        nonzero = self._code_nonzero((block > 0).astype(np.int32), contexts)
        block[nonzero] = self._code_values(block[nonzero].astype(np.int32) - 1) + 1
        filled = block.reshape(rows.size, -1)
        self._column_counts += np.count_nonzero(filled, axis=0)
        self._put(rows, filled)

    def _take(self, rows: NDArray[np.intp]) -> Symbols:
        """A copy of some rows, of the columns that are coded."""
        taken = self._symbols[rows]
        return taken if self._has_all_columns else taken[:, self._columns]

    def _put(self, rows: NDArray[np.intp], values: Symbols) -> None:
        if self._has_all_columns:
            self._symbols[rows] = values
        else:
            self._symbols[np.ix_(rows, self._columns)] = values

    def _contexts(self, rows: NDArray[np.intp], classes: NDArray[np.int32]) -> NDArray[np.intp]:
        counts = self._column_counts
        column_classes = _density_classes(counts + 2, counts.sum() + 2 * counts.size)
        # In few bits a number, since this is done for each entry.
        outer = (classes[:, None] * _NUM_CLASSES + column_classes).astype(np.int16)
        distance = max(self._stride, self._block)
        contexts = outer * np.int16(4)
        contexts += self._nonzero_at(rows - distance) * np.int16(2)
        contexts += self._nonzero_at(rows - 2 * distance)
        return contexts.reshape(-1).astype(np.intp)

    def _nonzero_at(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        if rows[-1] < 0:
            return np.zeros((rows.size, self._columns.size), bool)
        found = self._take(np.maximum(rows, 0)) > 0
        found[rows < 0] = False
        return found

    def _code_nonzero(
        self, flags: NDArray[np.int32], contexts: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        zeros, others = self._overall
        start = 1 + _PRIOR * _UNIT * self._overall // (zeros + others)
        table = _UNIT * self._zero_counts + start
        # Both counts of a context are taken at once, as eight bytes.
        pairs = frequencies(table).astype(np.float32).view(np.int64)[:, 0]
        counts = pairs[contexts].view(np.float32).reshape(-1, 2)
        nonzero = np.flatnonzero(self._coder.code(flags, counts))
        seen = np.bincount(contexts, minlength=_NUM_CONTEXTS)
        ones = np.bincount(contexts[nonzero], minlength=_NUM_CONTEXTS)
        self._zero_counts[:, 0] += seen - ones
        self._zero_counts[:, 1] += ones
        self._overall += (flags.size - nonzero.size, nonzero.size)
        return nonzero

    def _code_values(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        if self._value_counts.size <= 1 or not values.size:
            return np.zeros_like(values)
        values = self._coder.code(values, frequencies(self._value_counts))
        self._value_counts += np.bincount(values, minlength=self._value_counts.size)
        return values


def _density_classes(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Classifies each count by its ratio to the mean, total / counts.size, from 1 up."""
    bounds = _BOUNDS * total
    return 1 + np.searchsorted(bounds, 12 * counts * counts.size, side="right")


def _row_classes(symbols: Symbols, num_columns: int) -> NDArray[np.int32]:
    """Classifies rows by density, into as many classes as make the file smallest."""
    counts = np.count_nonzero(symbols, axis=1)
    alive = (counts > 0).astype(np.int32)
    detailed = alive * _density_classes(counts, counts.sum()).astype(np.int32)
    plain = np.full_like(alive, _MEAN_CLASS)
    return cheapest_classes(counts, num_columns, [plain, alive * _MEAN_CLASS, detailed])
