"""Codes each index tensor with the coder that suits its size.

Small tensors go one after the other through the adaptive coder, a context-mixing coder.
It knows rows, columns and neighbours, and learns from one tensor for the next. On networks
of some hundred thousand weights the indices then take a fifth less than their order-0
entropy. It is written here, in integers, because no library offers adaptive contexts over
a matrix, and it is slow in Python. Large tensors therefore go through the bulk coder, one
stream each, which codes whole blocks at once with the range coder of `constriction`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tfmot_sws.coding.adaptive import AdaptiveIndexCoder, adaptive_steps
from tfmot_sws.coding.arithmetic import BitDecoder, BitEncoder
from tfmot_sws.coding.bulk import BulkIndexCoder
from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.codebooks import Codebook, empty_symbols
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.matrix import Symbols, matrix_shape, row_stride
from tfmot_sws.coding.range_coder import SymbolDecoder, SymbolEncoder
from tfmot_sws.coding.table import ADAPTIVE, BULK, TensorEntry

# The adaptive coder takes a tensor up to this many steps, one for each coded entry and a few
# for each non-zero: about a second. In a model of more than _LARGE entries small tensors are
# too small a part of the file to be worth that time, so the limit is lower.
_MAX_STEPS: Final = 1 << 18
_MAX_STEPS_IN_LARGE: Final = 1 << 13
_LARGE: Final = 1 << 22


class IndexEncoder:
    """Codes index tensors in the order of the table.

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
        self._streams: list[bytes] = []
        self._sizes: list[int] = []
        self._last_adaptive: int | None = None

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
            self._last_adaptive = len(self._sizes)
            self._sizes.append(len(self._bits) - before)
            return ADAPTIVE
        self._streams.append(_bulk_stream(matrix, num_symbols, symbols.shape))
        self._sizes.append(len(self._streams[-1]))
        return BULK

    def finish(self) -> tuple[bytes, list[int]]:
        """Returns all bytes, and the number of bytes of each tensor."""
        bits = self._bits.finish()
        if self._last_adaptive is not None:
            # The last bytes of the common stream belong to its last tensor.
            total = sum(map(len, self._streams)) + len(bits)
            self._sizes[self._last_adaptive] += total - sum(self._sizes)
        return b"".join(self._streams) + bits, self._sizes


def _bulk_stream(matrix: Symbols, num_symbols: int, shape: tuple[int, ...]) -> bytes:
    coder = SymbolEncoder()
    BulkIndexCoder(coder, matrix, num_symbols, row_stride(shape, 0)).code()
    data = coder.finish()
    return varint(len(data)) + data


def decode_indices(
    data: bytes, entries: Sequence[TensorEntry], codebooks: Sequence[Codebook]
) -> Iterator[Symbols]:
    """Yields the symbols of every tensor, one after the other.

    Args:
        data: from `IndexEncoder.finish`.
        entries: entries of the tensors that have indices.
        codebooks: all codebooks.

    Raises:
        CompressedFileError: no `IndexEncoder` writes such data.
    """
    reader = ByteReader(data)
    streams = iter([reader.take(reader.varint()) for e in entries if e.storage == BULK])
    adaptive = AdaptiveIndexCoder(BitDecoder(reader.take(reader.remaining)))
    for entry in entries:
        codebook = codebooks[entry.codebook]
        symbols = empty_symbols(entry.shape, codebook)
        matrix = symbols.reshape(matrix_shape(entry.shape))
        num_symbols = codebook.size + 1
        if entry.storage == ADAPTIVE:
            stride = row_stride(entry.shape, adaptive.num_linked_units)
            adaptive.code(
                matrix, codebook=entry.codebook, num_symbols=num_symbols, stride=stride
            )
        else:
            _decode_bulk(next(streams), matrix, num_symbols, entry.shape)
        if matrix.max() >= num_symbols:
            raise CompressedFileError(
                "An index lies outside of its codebook. The file is damaged; copy or "
                "download it again."
            )
        yield symbols


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
