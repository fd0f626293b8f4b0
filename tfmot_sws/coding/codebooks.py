"""Codebooks: which tensors share one, and how its values are written.

A codebook holds the non-zero values of its tensors, ascending. Symbol 0 stands for zero
in every codebook, symbol s for value number s - 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.matrix import Symbols
from tfmot_sws.coding.table import CLUSTERABLE
from tfmot_sws.models.codebook import MAX_CODEBOOK_SIZE, entropy_bits

Book = NDArray[np.float32]

_FORMATS: Final = (np.dtype("<f4"), np.dtype("<f2"), np.dtype(ml_dtypes.bfloat16))
_HEAD: Final = 1 << 12
# Plain floats deflate to about this share: the mantissas stay, the exponents shrink.
_PLAIN_SHARE: Final = 0.88


@dataclasses.dataclass(frozen=True)
class _Values:
    """The distinct non-zero values of a tensor, and what indices would cost."""

    nonzeros: Book
    num_nonzeros: int
    index_bytes: float
    plain_bytes: float

    def cost_in(self, book: set[float]) -> float:
        """Bytes that the tensor costs as indices of a codebook so far as given."""
        union = len(book.union(self.nonzeros.tolist()))
        # A symbol that never occurs here dilutes the others until that is learned.
        spread = np.log2(max(1, union) / max(1, self.nonzeros.size))
        dilution = min(self.num_nonzeros * spread / 8, union)
        return 4 * (union - len(book)) + self.index_bytes + dilution


def assign_codebooks(arrays: Sequence[NDArray[Any]]) -> tuple[list[Book], list[int | None]]:
    """Chooses the codebooks so that they and the indices are small.

    Returns:
        The codebooks, and for each array the number of its codebook, or `None` where
        it is smaller plain or where a codebook does not give every bit back.
    """
    found = {i: values for i, array in enumerate(arrays) if (values := _values(array))}
    books: list[set[float]] = []
    numbers: list[int | None] = [None] * len(arrays)
    # The largest first: they decide which codebooks there are, small ones join in.
    for number in sorted(found, key=lambda i: -found[i].plain_bytes):
        numbers[number] = _join(books, found[number])
    return [np.array(sorted(book), np.float32) for book in books], numbers


def _join(books: list[set[float]], values: _Values) -> int | None:
    """The number of the cheapest codebook, which takes the values in; `None` for none."""
    own = set(values.nonzeros.tolist())
    fitting = [i for i, book in enumerate(books) if len(book | own) <= MAX_CODEBOOK_SIZE]
    costs = {number: values.cost_in(books[number]) for number in fitting}
    # A further codebook costs two bytes of its own.
    costs[len(books)] = values.cost_in(set()) + 2
    best = min(costs, key=costs.__getitem__)
    if costs[best] >= values.plain_bytes:
        return None
    if best == len(books):
        books.append(set())
    books[best] |= own
    return best


def _values(array: NDArray[Any]) -> _Values | None:
    if array.dtype.name not in CLUSTERABLE or not array.size:
        return None
    flat = array.reshape(-1)
    zero = flat == 0
    if np.signbit(flat[zero]).any() or _distinct(flat[:_HEAD]).size > MAX_CODEBOOK_SIZE:
        return None
    values, counts = np.unique(flat[~zero].astype(np.float32), return_counts=True)
    if values.size > MAX_CODEBOOK_SIZE or np.isnan(values).any():
        return None
    index_bytes = 1 + entropy_bits([*counts, array.size - counts.sum()]) * array.size / 8
    return _Values(values, int(counts.sum()), index_bytes, _PLAIN_SHARE * array.nbytes)


def _distinct(flat: NDArray[Any]) -> NDArray[Any]:
    values = np.unique(flat.astype(np.float32))
    return values[values != 0]


def to_symbols(array: NDArray[Any], book: Book) -> Symbols:
    """The symbols of a tensor whose values are all zero or in the codebook."""
    symbols = empty_symbols(array.shape, book).reshape(-1)
    flat = array.reshape(-1)
    places = np.flatnonzero(flat)
    symbols[places] = np.searchsorted(book, flat[places].astype(np.float32)) + 1
    return symbols.reshape(array.shape)


def empty_symbols(shape: tuple[int, ...], book: Book) -> Symbols:
    """Zeros of the smallest dtype that holds every symbol."""
    return np.zeros(shape, np.uint8 if book.size < 256 else np.uint16)


def encode_codebook(book: Book) -> bytes:
    """A count, a format, and the values, in 16 bits each where that loses nothing.

    Example:
        >>> encode_codebook(np.float32([-0.5, 0.25])).hex()
        '0900b80034'
    """
    for number in (1, 2, 0):
        with np.errstate(over="ignore"):
            short = book.astype(_FORMATS[number])
        if np.array_equal(short.astype(np.float32), book):
            break
    return varint(book.size << 2 | number) + short.tobytes()


def decode_codebook(reader: ByteReader) -> Book:
    """The codebook that `encode_codebook` was given.

    Raises:
        CompressedFileError: when the values are not ascending, or zero, or too many.
    """
    size, number = divmod(reader.varint(), 4)
    if size > MAX_CODEBOOK_SIZE or number >= len(_FORMATS):
        raise CompressedFileError(
            f"A codebook of {size} values in format {number}; at most {MAX_CODEBOOK_SIZE} "
            "were expected. The file is damaged; copy or download it again."
        )
    values = np.frombuffer(reader.take(size * _FORMATS[number].itemsize), _FORMATS[number])
    book = values.astype(np.float32)
    if not (np.all(book[1:] > book[:-1]) and np.all(book != 0) and not np.isnan(book).any()):
        raise CompressedFileError(
            "The values of a codebook are not ascending, or zero or NaN. The file is "
            "damaged; copy or download it again."
        )
    return book
