"""Codes small index tensors adaptively, entry by entry.

The coder treats a tensor as a matrix of symbols, with one row per input and one column
per output; symbol 0 is the value zero. First, one flag per row and per column marks those
that hold only zeros. Then it codes the other entries row by row: first whether the entry
is zero, and if it is not, its value. The statistics carry over from one tensor to the
next: the distribution of the values, and which units are dead, since a dead output is
mostly a dead input of the next layer.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.arithmetic import BitCoder
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.matrix import Symbols, cheapest_classes
from tfmot_sws.coding.mixing import Mixer

_UNKNOWN_UNIT: Final = 2
# Larger than any node number in the tree of values, so that symbol * _SPAN + node is unique.
_SPAN: Final = 1024
# Limits the bits of all matrices of a file, so that decoding takes seconds at most.
MAX_STEPS: Final = 1 << 19


class AdaptiveIndexCoder:
    """Codes index matrices one after the other; writing and reading run the same steps.

    Args:
        coder: a `BitEncoder` or a `BitDecoder`.

    Example:
        >>> from tfmot_sws.coding.arithmetic import BitDecoder, BitEncoder
        >>> symbols = np.array([[0, 0, 2], [0, 0, 0], [1, 0, 0]], np.uint16)
        >>> encoder = BitEncoder()
        >>> AdaptiveIndexCoder(encoder).code(symbols, codebook=0, num_symbols=3, stride=4)
        >>> data, decoded = encoder.finish(), np.zeros_like(symbols)
        >>> decoder = AdaptiveIndexCoder(BitDecoder(data))
        >>> decoder.code(decoded, codebook=0, num_symbols=3, stride=4)
        >>> len(data), decoded.tolist()
        (2, [[0, 0, 2], [0, 0, 0], [1, 0, 0]])
    """

    def __init__(self, coder: BitCoder) -> None:
        self.steps_left = MAX_STEPS
        self._coder = coder
        self._flag = Mixer(4, initial_weight=40000)
        self._zero = Mixer(7)
        self._values: dict[int, Mixer] = {}
        self._units: list[int] = []
        self._num_coded = 0

    @property
    def num_linked_units(self) -> int:
        """Number of output units of the previous tensor; 0 before the first."""
        return len(self._units)

    def code(self, symbols: Symbols, *, codebook: int, num_symbols: int, stride: int) -> None:
        """Codes one matrix; a decoder fills it in place.

        Args:
            symbols: shape (R, C), numbers below `num_symbols`; all 0 when decoding.
            codebook: number of the codebook; matrices of one codebook share statistics.
            num_symbols: size of the alphabet, symbol 0 included, at most 512.
            stride: distance in rows, at least 2, to a second neighbour (the same input
                one kernel tap or image row before); more than R if there is none.

        Raises:
            CompressedFileError: the matrix takes more than `steps_left` bits.
        """
        num_rows, num_columns = symbols.shape
        self._spend(num_rows + num_columns)
        rows = self._code_flags(_alive(symbols, 1), self._linked_units(num_rows))
        columns = [1] * num_columns
        if num_columns > 1:
            columns = self._code_flags(_alive(symbols, 0), [_UNKNOWN_UNIT] * num_columns)
        self._spend(sum(rows) * sum(columns))
        # A bias describes the same units as its kernel, so the flags of the kernel stay.
        if num_columns > 1 or num_rows != len(self._units):
            self._units = columns if num_columns > 1 else rows
        self._num_coded += 1
        self._zero.forget()
        values = self._values.setdefault(
            codebook, Mixer(6, initial_weight=20000, rate=12, prior=2)
        )
        scan = _Scan(symbols, np.flatnonzero(columns).tolist(), stride)
        tree = _ValueTree(self._coder, values, num_symbols, self._num_coded)
        for row in np.flatnonzero(rows).tolist():
            self._spend(tree.depth * scan.code_row(row, self._coder, self._zero, tree))

    def _spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise CompressedFileError(
                f"More than {MAX_STEPS} bits are coded one by one, which no writer does. "
                "The file is damaged or hostile; do not use it."
            )

    def _linked_units(self, num_rows: int) -> list[int]:
        """Tells for each row whether its input unit was alive in the previous tensor."""
        if not self._units or num_rows % len(self._units):
            return [_UNKNOWN_UNIT] * num_rows
        return self._units * (num_rows // len(self._units))

    def _code_flags(self, flags: NDArray[np.int32], links: list[int]) -> list[int]:
        coded: list[int] = []
        last = before_last = 0
        for flag, link in zip(flags.tolist(), links, strict=True):
            tensor = 3 * self._num_coded + link
            history = 3 * (2 * last + before_last) + link
            contexts = (link, tensor, history, 4 * tensor + last)
            before_last, last = last, self._flag.code(self._coder, flag, contexts)
            coded.append(last)
        return coded


def _alive(symbols: Symbols, axis: int) -> NDArray[np.int32]:
    """Flags the rows (axis 1) or columns to code: all of them if the flags cost too much."""
    counts = np.count_nonzero(symbols, axis=axis)
    alive = (counts > 0).astype(np.int32)
    return cheapest_classes(counts, symbols.shape[axis], [alive, np.ones_like(alive)])


def adaptive_steps(symbols: Symbols, num_symbols: int) -> int:
    """Counts the binary decisions that the adaptive coder takes at most for one matrix."""
    live = int(_alive(symbols, 1).sum()) * int(_alive(symbols, 0).sum())
    num_nonzeros = int(np.count_nonzero(symbols))
    return sum(symbols.shape) + live + _depth(num_symbols) * num_nonzeros


def _depth(num_symbols: int) -> int:
    """Returns the number of bits that tell the symbols from 1 up apart."""
    return max(0, num_symbols - 2).bit_length()


class _Scan:
    """Walks over the live entries of one matrix, row by row."""

    def __init__(self, symbols: Symbols, columns: list[int], stride: int) -> None:
        self._symbols, self._columns, self._stride = symbols, columns, stride
        num_columns = symbols.shape[1]
        self._blank = np.zeros(num_columns, symbols.dtype)
        self._column_counts = [0] * num_columns
        self._last_in_column = [0] * num_columns

    def code_row(self, row: int, coder: BitCoder, zero: Mixer, tree: _ValueTree) -> int:
        """Codes the live entries of one row; returns the number of non-zeros."""
        line = self._symbols[row].tolist()
        above, far, patterns, densities = self._neighbours(row)
        counts, last_symbols = self._column_counts, self._last_in_column
        row_count = last_in_row = 0
        for column in self._columns:
            near = above[column] * _SPAN + far[column]
            population = 8 * min(3, row_count) + min(7, counts[column])
            contexts = (
                0, row, column, patterns[column], population, densities[column], near,
            )  # fmt: skip
            if not zero.code(coder, int(line[column] > 0), contexts):
                continue
            line[column] = last_in_row = last_symbols[column] = tree.code(
                line[column],
                (last_in_row, last_symbols[column], above[column], far[column]),
            )
            row_count += 1
            counts[column] += 1
        self._symbols[row] = line
        return row_count

    def _neighbours(self, row: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """Computes the contexts that depend only on earlier rows, each for all columns."""
        stride = self._stride
        above, second, third = (self._line(row - distance) for distance in (1, 2, 3))
        far, farther = self._line(row - stride), self._line(row - 2 * stride)
        beside = self._line(row - stride - 1), self._line(row - stride + 1)
        patterns = (above > 0) * 4 + (second > 0) * 2 + (far > 0)
        window = (above, second, third, far, farther, *beside)
        densities = np.sum([line > 0 for line in window], axis=0)
        return above.tolist(), far.tolist(), patterns.tolist(), densities.tolist()

    def _line(self, row: int) -> Symbols:
        return self._symbols[row] if row >= 0 else self._blank


class _ValueTree:
    """Codes a non-zero symbol as the path to a leaf of a balanced binary tree."""

    def __init__(self, coder: BitCoder, mixer: Mixer, num_symbols: int, tensor: int) -> None:
        self._coder, self._mixer, self._tensor = coder, mixer, tensor
        self.depth = _depth(num_symbols)

    def code(self, symbol: int, related: tuple[int, int, int, int]) -> int:
        """Codes one symbol from 1 up, given four related symbols."""
        node = 1
        for level in reversed(range(self.depth)):
            contexts = [node, self._tensor * _SPAN + node]
            contexts += [other * _SPAN + node for other in related]
            bit = self._mixer.code(self._coder, (symbol - 1) >> level & 1, contexts)
            node = 2 * node + bit
        return node - (1 << self.depth) + 1
