"""Codes index tensors, each with the coder that suits its size, and numbers beside them.

Small tensors go one after the other through the adaptive coder, a context-mixing coder.
It knows rows, columns and neighbours, and learns from one tensor for the next. On networks
of some hundred thousand weights the indices then take a fifth less than their order-0
entropy. It is written here, in integers, because no library offers adaptive contexts over
a matrix, and it is slow in Python. Large tensors therefore go through the bulk coder, one
stream each, which codes whole blocks at once with the range coder of `constriction`.

Codebooks and tensors of few significant bits share the stream of the adaptive coder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.adaptive import AdaptiveIndexCoder, adaptive_steps
from tfmot_sws.coding.arithmetic import BitDecoder, BitEncoder
from tfmot_sws.coding.bulk import BulkIndexCoder
from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.codebooks import Codebook, check_codebook, empty_symbols
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.grids import code_grids, step_of
from tfmot_sws.coding.matrix import Symbols, matrix_shape, row_stride
from tfmot_sws.coding.numbers import NumberCoder, num_steps, precision_of
from tfmot_sws.coding.range_coder import SymbolDecoder, SymbolEncoder
from tfmot_sws.coding.table import ADAPTIVE, BULK, NUMBERS, TensorEntry

# The adaptive coder takes a tensor up to this many steps, one for each coded entry and a few
# for each non-zero: about a second. In a model of more than _LARGE entries small tensors are
# too small a part of the file to be worth that time, so the limit is lower.
_MAX_STEPS: Final = 1 << 18
_MAX_STEPS_IN_LARGE: Final = 1 << 13
_LARGE: Final = 1 << 22


class IndexEncoder:
    """Codes codebooks first, then tensors in the order of the table.

    Args:
        num_entries: number of entries of all tensors of the model together.

    Example:
        >>> import numpy as np
        >>> encoder = IndexEncoder()
        >>> encoder.add(np.eye(8, dtype=np.uint8), codebook=0, num_symbols=2)
        2
        >>> data, sizes = encoder.finish()
        >>> len(data) == sum(sizes)
        True
    """

    def __init__(self, num_entries: int = 0) -> None:
        self._max_steps = _MAX_STEPS_IN_LARGE if num_entries > _LARGE else _MAX_STEPS
        self._bits = BitEncoder()
        self._adaptive = AdaptiveIndexCoder(self._bits)
        self._numbers = NumberCoder(self._bits)
        self._streams: list[bytes] = []
        self._sizes: list[int] = []
        self._last_adaptive: int | None = None

    def add_codebooks(self, codebooks: Sequence[Codebook]) -> int:
        """Codes all codebooks; returns their bytes. It comes before all tensors."""
        coder = NumberCoder(self._bits)
        grids = [codebook for codebook in codebooks if step_of(codebook) is not None]
        code_grids(self._bits, coder, grids, len(grids))
        for codebook in codebooks:
            if step_of(codebook) is None:
                coder.code(codebook)
        return len(self._bits)

    def add_numbers(self, values: NDArray[np.float32]) -> bool:
        """Codes a tensor, shape (M,), as numbers; returns whether this can be done."""
        precision = precision_of(values)
        if precision is None or num_steps(values, precision) > self._numbers.steps_left:
            return False
        before = len(self._bits)
        self._numbers.code(values)
        self._note_adaptive(before)
        return True

    def add(self, symbols: Symbols, *, codebook: int, num_symbols: int) -> int:
        """Codes one tensor; returns `ADAPTIVE` or `BULK`."""
        matrix = symbols.reshape(matrix_shape(symbols.shape))
        steps = adaptive_steps(matrix, num_symbols)
        if steps <= min(self._max_steps, self._adaptive.steps_left):
            before = len(self._bits)
            stride = row_stride(symbols.shape, self._adaptive.num_linked_units)
            self._adaptive.code(
                matrix, codebook=codebook, num_symbols=num_symbols, stride=stride
            )
            self._note_adaptive(before)
            return ADAPTIVE
        self._streams.append(_bulk_stream(matrix, num_symbols, symbols.shape))
        self._sizes.append(len(self._streams[-1]))
        return BULK

    def _note_adaptive(self, before: int) -> None:
        """Notes the size of a tensor that the common stream has taken up."""
        self._last_adaptive = len(self._sizes)
        self._sizes.append(len(self._bits) - before)

    def finish(self, before: int = 0) -> tuple[bytes, list[int]]:
        """Returns all bytes, and the number of bytes of each tensor.

        Args:
            before: bytes of the codebooks, which are none of the tensors'.
        """
        bits = self._bits.finish()
        if self._last_adaptive is not None:
            # The last bytes of the common stream belong to its last tensor.
            total = sum(map(len, self._streams)) + len(bits) - before
            self._sizes[self._last_adaptive] += total - sum(self._sizes)
        return b"".join(self._streams) + bits, self._sizes


def _bulk_stream(matrix: Symbols, num_symbols: int, shape: tuple[int, ...]) -> bytes:
    coder = SymbolEncoder()
    BulkIndexCoder(coder, matrix, num_symbols, row_stride(shape, 0)).code()
    data = coder.finish()
    return varint(len(data)) + data


class IndexDecoder:
    """Reads back what an `IndexEncoder` wrote.

    Args:
        data: from `IndexEncoder.finish`.
        entries: entries of all tensors that it coded, in the order of the table.

    Raises:
        CompressedFileError: from every method, if no `IndexEncoder` writes such data.
    """

    def __init__(self, data: bytes, entries: Sequence[TensorEntry]) -> None:
        reader = ByteReader(data)
        self._entries = entries
        self._streams = iter(
            [reader.take(reader.varint()) for e in entries if e.storage == BULK]
        )
        self._bits = BitDecoder(reader.take(reader.remaining))
        self._adaptive = AdaptiveIndexCoder(self._bits)
        self._numbers = NumberCoder(self._bits)

    def codebooks(self, sizes: Sequence[int | None]) -> list[Codebook]:
        """Returns the codebooks, of known sizes, or grids. It comes before all tensors.

        Args:
            sizes: number of values of each codebook; `None` for a grid.
        """
        coder = NumberCoder(self._bits)
        grids = iter(code_grids(self._bits, coder, [], sizes.count(None)))
        return [
            check_codebook(
                next(grids) if size is None else coder.code(np.zeros(size, np.float32))
            )
            for size in sizes
        ]

    def tensors(self, codebooks: Sequence[Codebook]) -> Iterator[NDArray[Any]]:
        """Yields the symbols, or the numbers as float32, of every tensor in its shape."""
        for entry in self._entries:
            if entry.storage == NUMBERS:
                numbers = self._numbers.code(np.zeros(entry.size, np.float32))
                yield numbers.reshape(entry.shape)
            else:
                yield self._symbols(entry, codebooks[entry.codebook])

    def _symbols(self, entry: TensorEntry, codebook: Codebook) -> Symbols:
        symbols = empty_symbols(entry.shape, codebook)
        matrix = symbols.reshape(matrix_shape(entry.shape))
        num_symbols = codebook.size + 1
        if entry.storage == ADAPTIVE:
            stride = row_stride(entry.shape, self._adaptive.num_linked_units)
            self._adaptive.code(
                matrix, codebook=entry.codebook, num_symbols=num_symbols, stride=stride
            )
        else:
            _decode_bulk(next(self._streams), matrix, num_symbols, entry.shape)
        if matrix.max() >= num_symbols:
            raise CompressedFileError(
                "An index lies outside of its codebook. The file is damaged; copy or "
                "download it again."
            )
        return symbols


def _decode_bulk(
    data: bytes, matrix: Symbols, num_symbols: int, shape: tuple[int, ...]
) -> None:
    try:
        coder = SymbolDecoder(data)
        BulkIndexCoder(coder, matrix, num_symbols, row_stride(shape, 0)).code()
    except (AssertionError, ValueError) as error:
        raise CompressedFileError(
            f"The indices cannot be decoded ({error}). The file is damaged; copy or "
            "download it again."
        ) from error
