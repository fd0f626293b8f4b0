"""Encodes and decodes all tensors of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.byte_io import ByteReader
from tfmot_sws.coding.codebooks import (
    Codebook,
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
# Entries that are looked up in a codebook at a time.
_SLICE: Final = 1 << 18


@dataclasses.dataclass(frozen=True)
class EncodedTensors:
    """The bytes of all tensors, and how many belong to each.

    Args:
        table: the table of tensors.
        codebooks: all codebooks.
        rest: the values of the tensors without codebook.
        indices: the indices of the tensors with a codebook.
        tensor_bytes: number of bytes of each tensor in `rest` or `indices`.
    """

    table: bytes
    codebooks: bytes
    rest: bytes
    indices: bytes
    tensor_bytes: tuple[int, ...]

    def sections(self) -> dict[Section, bytes]:
        """Returns the sections of the file."""
        return {
            Section.TENSORS: self.table + self.codebooks + self.rest,
            Section.INDICES: self.indices,
        }


def encode_tensors(
    arrays: Sequence[NDArray[Any]], *, float16_rest: bool = False
) -> EncodedTensors:
    """Encodes tensors; tensors of few distinct values become codebook and indices.

    Args:
        arrays: arrays of the dtypes in `table.DTYPES`. Each is read two or three times,
            so a sequence that makes its arrays on access saves memory.
        float16_rest: store float32 arrays without codebook as float16.
    """
    codebooks, numbers = assign_codebooks(arrays)
    encoder = IndexEncoder(sum(array.size for array in arrays))
    entries: list[TensorEntry] = []
    for array, number in zip(arrays, numbers, strict=True):
        entry = TensorEntry(array.shape, array.dtype.name)
        if number is not None:
            codebook = codebooks[number]
            symbols = to_symbols(array, codebook)
            storage = encoder.add(symbols, codebook=number, num_symbols=codebook.size + 1)
            entry = dataclasses.replace(entry, storage=storage, codebook=number)
        elif float16_rest and _fits_float16(array):
            entry = dataclasses.replace(entry, storage=FLOAT16)
        entries.append(entry)
    plain = [i for i, entry in enumerate(entries) if not entry.has_indices]
    rest = b""
    if plain:
        rest = encode_plain((entries[i], arrays[i]) for i in plain)
    indices, sizes = encoder.finish()
    plain_sizes = _in_proportion(len(rest), [entries[i].num_bytes for i in plain])
    index_bytes, plain_bytes = iter(sizes), iter(plain_sizes)
    return EncodedTensors(
        table=encode_table(entries),
        codebooks=b"".join(map(encode_codebook, codebooks)),
        rest=rest,
        indices=indices,
        tensor_bytes=tuple(
            next(index_bytes if entry.has_indices else plain_bytes) for entry in entries
        ),
    )


def _fits_float16(array: NDArray[Any]) -> bool:
    if array.dtype != np.float32 or not array.size:
        return False
    return bool(np.abs(array).max() <= _LARGEST_FLOAT16)


def _in_proportion(total: int, sizes: Sequence[int]) -> list[int]:
    """Splits the total into integers in proportion to the sizes."""
    edges = np.cumsum([0, *sizes])
    bounds = edges * total // max(1, int(edges[-1]))
    if len(bounds) > 1:
        bounds[-1] = total
    return np.diff(bounds).tolist()


@dataclasses.dataclass(frozen=True)
class DecodedTensor:
    """A tensor from a file: symbols and a codebook, which take little memory, or values.

    Args:
        entry: its entry in the table of tensors.
        values: its symbols if there is a codebook, else its values.
        codebook: the codebook that its symbols refer to.
    """

    entry: TensorEntry
    values: NDArray[Any]
    codebook: Codebook | None = None

    def array(self) -> NDArray[Any]:
        """Returns the values of the tensor."""
        if self.codebook is None:
            return self.values
        table = np.concatenate([np.zeros(1, np.float32), self.codebook])
        table = table.astype(np.dtype(self.entry.dtype))
        flat, array = self.values.reshape(-1), np.empty(self.entry.size, table.dtype)
        # NumPy converts indices to eight bytes each; a slice at a time limits the memory.
        for start in range(0, flat.size, _SLICE):
            array[start : start + _SLICE] = table[flat[start : start + _SLICE]]
        return array.reshape(self.entry.shape)


class TensorReader:
    """Reads the table of tensors at once, and the tensors on demand.

    So a caller can check `entries` before the tensors take memory.

    Args:
        sections: the sections of a file.
        num_bytes: size of the file.

    Raises:
        CompressedFileError: the table is damaged or declares too many weights.
    """

    def __init__(self, sections: Mapping[Section, bytes], num_bytes: int) -> None:
        self._reader = ByteReader(sections.get(Section.TENSORS, b"\0"))
        self._indices = sections.get(Section.INDICES, b"")
        self.entries = decode_table(self._reader, num_bytes)

    def read(self) -> Iterator[DecodedTensor]:
        """Yields all tensors, one after the other; call it once.

        Raises:
            CompressedFileError: a part is damaged; possibly after some tensors.
        """
        coded = [entry for entry in self.entries if entry.has_indices]
        plain = [entry for entry in self.entries if not entry.has_indices]
        num_codebooks = max((entry.codebook for entry in coded), default=-1) + 1
        codebooks = [decode_codebook(self._reader) for _ in range(num_codebooks)]
        values = iter(decode_plain(self._reader, plain) if plain else [])
        if self._reader.remaining:
            raise CompressedFileError(
                f"{self._reader.remaining} bytes follow the last tensor. The file is "
                "damaged; copy or download it again."
            )
        symbols = decode_indices(self._indices, coded, codebooks)
        for entry in self.entries:
            if entry.has_indices:
                yield DecodedTensor(entry, next(symbols), codebooks[entry.codebook])
            else:
                yield DecodedTensor(entry, next(values))
