"""All tensors of a model to bytes and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.byte_io import ByteReader
from tfmot_sws.coding.codebooks import (
    Book,
    assign_codebooks,
    decode_codebook,
    encode_codebook,
    to_symbols,
)
from tfmot_sws.coding.container import Section
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.indices import IndexEncoder, decode_indices
from tfmot_sws.coding.plain import decode_plain, encode_plain
from tfmot_sws.coding.table import FLOAT16, TensorEntry, decode_table, encode_table

_LARGEST_FLOAT16: Final = 65504.0
_SLICE: Final = 1 << 18


@dataclasses.dataclass(frozen=True)
class EncodedTensors:
    """The bytes of all tensors, and whose they are.

    Args:
        table: the table of tensors.
        codebooks: all codebooks.
        rest: the values of the tensors without codebook.
        indices: the indices of those with one.
        tensor_bytes: for each tensor its bytes in `rest` or `indices`.
    """

    table: bytes
    codebooks: bytes
    rest: bytes
    indices: bytes
    tensor_bytes: tuple[int, ...]

    def sections(self) -> dict[Section, bytes]:
        """The sections of the file."""
        return {
            Section.TENSORS: self.table + self.codebooks + self.rest,
            Section.INDICES: self.indices,
        }


def encode_tensors(
    arrays: Sequence[NDArray[Any]], *, float16_rest: bool = False
) -> EncodedTensors:
    """Codes tensors, those of few distinct values as codebook and indices.

    Args:
        arrays: arrays of the dtypes in `table.DTYPES`; each is asked for two or three
            times, so that a sequence that makes them when asked saves memory.
        float16_rest: store float32 arrays without codebook as float16.
    """
    books, numbers = assign_codebooks(arrays)
    encoder = IndexEncoder(sum(array.size for array in arrays))
    entries: list[TensorEntry] = []
    for array, number in zip(arrays, numbers, strict=True):
        entry = TensorEntry(array.shape, array.dtype.name)
        if number is not None:
            symbols = to_symbols(array, books[number])
            storage = encoder.add(symbols, codebook=number, num_symbols=books[number].size + 1)
            entry = dataclasses.replace(entry, storage=storage, codebook=number)
        elif float16_rest and _fits_float16(array):
            entry = dataclasses.replace(entry, storage=FLOAT16)
        entries.append(entry)
    plain = [i for i, entry in enumerate(entries) if not entry.has_indices]
    rest = b""
    if plain:
        rest = encode_plain((entries[i], arrays[i]) for i in plain)
    indices, sizes = encoder.finish()
    shares = _share(len(rest), [entries[i].num_bytes for i in plain])
    tensor_bytes = iter(sizes), iter(shares)
    return EncodedTensors(
        table=encode_table(entries),
        codebooks=b"".join(map(encode_codebook, books)),
        rest=rest,
        indices=indices,
        tensor_bytes=tuple(next(tensor_bytes[not e.has_indices]) for e in entries),
    )


def _fits_float16(array: NDArray[Any]) -> bool:
    if array.dtype != np.float32 or not array.size:
        return False
    return bool(np.abs(array).max() <= _LARGEST_FLOAT16)


def _share(total: int, sizes: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to the sizes that sum to the total."""
    edges = np.cumsum([0, *sizes])
    bounds = edges * total // max(1, int(edges[-1]))
    if len(bounds) > 1:
        bounds[-1] = total
    return np.diff(bounds).tolist()


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as read: symbols and codebook, which are small, or its values."""

    entry: TensorEntry
    values: NDArray[Any]
    book: Book | None = None

    def array(self) -> NDArray[Any]:
        """The tensor itself."""
        if self.book is None:
            return self.values
        table = np.concatenate([np.zeros(1, np.float32), self.book])
        table = table.astype(np.dtype(self.entry.dtype))
        flat, array = self.values.reshape(-1), np.empty(self.entry.size, table.dtype)
        # NumPy makes eight bytes of every index: a slice at a time.
        for start in range(0, flat.size, _SLICE):
            array[start : start + _SLICE] = table[flat[start : start + _SLICE]]
        return array.reshape(self.entry.shape)


class TensorReader:
    """Reads tensors; the table first, so that it can be looked at before the rest.

    Args:
        sections: of a file.
        num_bytes: size of the file.

    Raises:
        CompressedFileError: when the table is damaged or declares too much.
    """

    def __init__(self, sections: Mapping[Section, bytes], num_bytes: int) -> None:
        self._reader = ByteReader(sections.get(Section.TENSORS, b"\0"))
        self._indices = sections.get(Section.INDICES, b"")
        self.entries = decode_table(self._reader, num_bytes)

    def read(self) -> Iterator[StoredTensor]:
        """Gives all tensors, one after the other; to be called once.

        Raises:
            CompressedFileError: when something is damaged, also halfway.
        """
        coded = [entry for entry in self.entries if entry.has_indices]
        plain = [entry for entry in self.entries if not entry.has_indices]
        num_books = max((entry.codebook for entry in coded), default=-1) + 1
        books = [decode_codebook(self._reader) for _ in range(num_books)]
        values = iter(decode_plain(self._reader, plain) if plain else [])
        if self._reader.remaining:
            raise CompressedFileError(
                f"{self._reader.remaining} bytes follow the last tensor. The file is "
                "damaged; copy or download it again."
            )
        symbols = decode_indices(self._indices, coded, books)
        for entry in self.entries:
            if entry.has_indices:
                yield StoredTensor(entry, next(symbols), books[entry.codebook])
            else:
                yield StoredTensor(entry, next(values))
