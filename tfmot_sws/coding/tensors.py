"""Encodes and decodes all tensors of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.codebooks import (
    Codebook,
    assign_codebooks,
    decode_codebook,
    to_symbols,
)
from tfmot_sws.coding.container import VERSION, Section
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.grids import step_of
from tfmot_sws.coding.indices import IndexDecoder, IndexEncoder
from tfmot_sws.coding.numbers import precision_of
from tfmot_sws.coding.plain import decode_plain, encode_plain
from tfmot_sws.coding.table import (
    CLUSTERABLE,
    FLOAT16,
    NUMBERS,
    ONES,
    RAW,
    ZEROS,
    TensorEntry,
    decode_table,
    encode_table,
    numpy_dtype,
)
from tfmot_sws.models.entropy import MAX_CODEBOOK_SIZE

_LARGEST_FLOAT16: Final = 65504.0
# Of the format.
_LAST_WITHOUT_GRIDS: Final = 2
# In place of the number of values of a codebook, which is never 0.
_GRID: Final = 0
# Entries that are looked up in a codebook at a time.
_SLICE: Final = 1 << 18
_CONSTANTS: Final = {ZEROS: 0, ONES: 1}
# Larger tensors are no vectors, and the coder of numbers is slow.
_MOST_NUMBERS: Final = 1 << 14
# As many bits of mantissa as each of the two types has.
_FLOAT16_BITS: Final = 10
_FLOAT32_BITS: Final = 23


@dataclasses.dataclass(frozen=True)
class EncodedTensors:
    """The bytes of all tensors, and how many belong to each.

    Args:
        table: the table of tensors and the sizes of the codebooks.
        plain: the values of the tensors that no coder takes.
        coded: the indices, numbers and codebooks.
        codebook_bytes: number of bytes of the codebooks in `coded`.
        tensor_bytes: number of bytes of each tensor in `plain` or `coded`.
        entries: the entries of the table.
    """

    table: bytes
    plain: bytes
    coded: bytes
    codebook_bytes: int
    tensor_bytes: tuple[int, ...]
    entries: tuple[TensorEntry, ...]

    def sections(self) -> dict[Section, bytes]:
        """Returns the sections of the file."""
        return {Section.TENSORS: self.table + self.plain, Section.INDICES: self.coded}

    @property
    def index_bytes(self) -> int:
        """Number of bytes of the tensors with a codebook."""
        pairs = zip(self.entries, self.tensor_bytes, strict=True)
        return sum(size for entry, size in pairs if entry.has_indices)


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
    codebook_bytes = encoder.add_codebooks(codebooks)
    entries: list[TensorEntry] = []
    for array, number in zip(arrays, numbers, strict=True):
        entry = TensorEntry(array.shape, array.dtype.name)
        if number is not None:
            codebook = codebooks[number]
            symbols = to_symbols(array, codebook)
            storage = encoder.add(symbols, codebook=number, num_symbols=codebook.size + 1)
            entry = dataclasses.replace(entry, storage=storage, codebook=number)
        else:
            storage = _storage_without_codebook(array, encoder, float16_rest=float16_rest)
            entry = dataclasses.replace(entry, storage=storage)
        entries.append(entry)
    plain = [i for i, entry in enumerate(entries) if entry.is_plain]
    rest = b""
    if plain:
        rest = encode_plain((entries[i], arrays[i]) for i in plain)
    coded, sizes = encoder.finish(codebook_bytes)
    plain_sizes = _in_proportion(len(rest), [entries[i].num_bytes for i in plain])
    sizes_of = {True: iter(plain_sizes), False: iter(sizes)}
    heads = b"".join(varint(_head(codebook)) for codebook in codebooks)
    return EncodedTensors(
        table=encode_table(entries) + heads,
        plain=rest,
        coded=coded,
        codebook_bytes=codebook_bytes,
        tensor_bytes=tuple(
            0 if entry.storage in _CONSTANTS else next(sizes_of[entry.is_plain])
            for entry in entries
        ),
        entries=tuple(entries),
    )


def _head(codebook: Codebook) -> int:
    """The number of values of a codebook, or `_GRID`."""
    return _GRID if step_of(codebook) is not None else codebook.size


def _storage_without_codebook(
    array: NDArray[Any], encoder: IndexEncoder, *, float16_rest: bool
) -> int:
    """Codes a tensor as numbers where that is smaller; returns how it is stored."""
    for storage in _CONSTANTS:
        if is_constant(array, storage):
            return storage
    floats = array.dtype.name in CLUSTERABLE and array.size
    if floats and array.size <= _MOST_NUMBERS:
        values = array.reshape(-1).astype(np.float32)
        precision = precision_of(values)
        limit = _FLOAT16_BITS if float16_rest and _fits_float16(array) else _FLOAT32_BITS
        if precision is not None and precision.length <= limit and encoder.add_numbers(values):
            return NUMBERS
    return FLOAT16 if float16_rest and _fits_float16(array) else RAW


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
        if self.entry.storage in _CONSTANTS:
            return np.full(self.entry.shape, _CONSTANTS[self.entry.storage], self._dtype)
        if self.codebook is None:
            return self.values.astype(self._dtype, copy=False)
        table = np.concatenate([np.zeros(1, np.float32), self.codebook])
        table = table.astype(self._dtype)
        flat, array = self.values.reshape(-1), np.empty(self.entry.size, table.dtype)
        # NumPy converts indices to eight bytes each; a slice at a time limits the memory.
        for start in range(0, flat.size, _SLICE):
            array[start : start + _SLICE] = table[flat[start : start + _SLICE]]
        return array.reshape(self.entry.shape)

    @property
    def _dtype(self) -> np.dtype:
        return numpy_dtype(self.entry.dtype).newbyteorder("=")


class TensorReader:
    """Reads the table of tensors at once, and the tensors on demand.

    So a caller can check `entries` before the tensors take memory.

    Args:
        sections: the sections of a file.
        num_bytes: size of the file.
        version: of the format.

    Raises:
        CompressedFileError: the table is damaged or declares too many weights.
    """

    def __init__(
        self, sections: Mapping[Section, bytes], num_bytes: int, version: int = VERSION
    ) -> None:
        self._version = version
        self._reader = ByteReader(sections.get(Section.TENSORS, b"\0"))
        self._indices = sections.get(Section.INDICES, b"")
        self.entries = decode_table(self._reader, num_bytes, version)

    def read(self) -> Iterator[DecodedTensor]:
        """Yields all tensors, one after the other; call it once.

        Raises:
            CompressedFileError: a part is damaged; possibly after some tensors.
        """
        coded = [e for e in self.entries if e.has_indices or e.storage == NUMBERS]
        plain = [entry for entry in self.entries if entry.is_plain]
        numbers = [entry.codebook for entry in coded if entry.has_indices]
        num_codebooks = max(numbers, default=-1) + 1
        decoder = IndexDecoder(self._indices, coded)
        codebooks = self._codebooks(num_codebooks, decoder)
        values = iter(decode_plain(self._reader, plain) if plain else [])
        if self._reader.remaining:
            raise CompressedFileError(
                f"{self._reader.remaining} bytes follow the last tensor. The file is "
                "damaged; copy or download it again."
            )
        found = decoder.tensors(codebooks)
        for entry in self.entries:
            if entry.storage in _CONSTANTS:
                yield DecodedTensor(entry, np.zeros(0))
            elif entry.is_plain:
                yield DecodedTensor(entry, next(values))
            elif entry.has_indices:
                yield DecodedTensor(entry, next(found), codebooks[entry.codebook])
            else:
                yield DecodedTensor(entry, next(found))

    def _codebooks(self, number: int, decoder: IndexDecoder) -> list[Codebook]:
        """The codebooks, which version 1 of the format has among the plain values."""
        if self._version == 1:
            return [decode_codebook(self._reader) for _ in range(number)]
        sizes = [self._reader.varint() for _ in range(number)]
        if max(sizes, default=0) > MAX_CODEBOOK_SIZE:
            raise CompressedFileError(
                f"A codebook of {max(sizes)} values; at most {MAX_CODEBOOK_SIZE} were "
                "expected. The file is damaged; copy or download it again."
            )
        is_grid = [self._version > _LAST_WITHOUT_GRIDS and size == _GRID for size in sizes]
        pairs = zip(sizes, is_grid, strict=True)
        return decoder.codebooks([None if grid else size for size, grid in pairs])


def is_constant(array: NDArray[Any], storage: int) -> bool:
    """Whether every entry is bit for bit the value that `ZEROS` or `ONES` stands for."""
    if not array.size or array.dtype.name == "bool" or np.any(array != _CONSTANTS[storage]):
        return False
    return not np.issubdtype(array.dtype, np.floating) or not np.signbit(array).any()
