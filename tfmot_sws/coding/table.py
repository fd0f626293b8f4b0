"""Reads and writes the table of tensors: their shapes, dtypes and storage."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.container import VERSION
from tfmot_sws.coding.deflate import pack, unpack
from tfmot_sws.coding.errors import CompressedFileError

# The position in this tuple is the number in the file; number 0 is not written.
DTYPES: Final = (
    "float32", "float16", "bfloat16", "float64",
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip
# Shape and dtype.
VariableKind = tuple[tuple[int, ...], str]
# Codebooks hold float32, so only tensors of dtypes that fit into it may have one.
CLUSTERABLE: Final = ("float32", "float16", "bfloat16")
RAW, FLOAT16, ADAPTIVE, BULK, ZEROS, ONES, NUMBERS = range(7)
# Storages without a codebook by their number in the table; each number above is one of the
# two with a codebook. Version 1 of the format knew fewer.
_PLAIN: Final = {
    1: (RAW, FLOAT16),
    2: (RAW, FLOAT16, ZEROS, ONES, NUMBERS),
    4: (RAW, FLOAT16, ZEROS, ONES, NUMBERS),
}
_MAX_RANK: Final = 32
_MAX_CODEBOOKS: Final = 1 << 20
_MAX_TABLE_BYTES: Final = 1 << 22
# A file may declare _FREE_ENTRIES entries, and _ENTRIES_PER_BYTE more for each of its
# bytes. Every trained model fits, and a hostile file cannot claim much memory.
_FREE_ENTRIES: Final = 1 << 25
_ENTRIES_PER_BYTE: Final = 1 << 12
# Likewise for tensors: each costs time, even if it is empty.
_FREE_TENSORS: Final = 1 << 12
_BYTES_PER_TENSOR: Final = 2


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """How one tensor is stored.

    Args:
        shape: its shape.
        dtype: its dtype, one of `DTYPES`.
        storage: `RAW`, `FLOAT16` (float32 values kept as float16), all `ZEROS` or `ONES`,
            `NUMBERS` of few significant bits, or indices of a codebook, coded `ADAPTIVE` or
            in `BULK`.
        codebook: number of the codebook; 0 if there is none.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: int = RAW
    codebook: int = 0

    @property
    def kind(self) -> VariableKind:
        """Shape and dtype."""
        return self.shape, self.dtype

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor in memory."""
        return self.size * numpy_dtype(self.dtype).itemsize

    @property
    def has_indices(self) -> bool:
        """Whether it is stored as indices of a codebook."""
        return self.storage in (ADAPTIVE, BULK)

    @property
    def is_plain(self) -> bool:
        """Whether its values stand among the plain ones."""
        return self.storage in (RAW, FLOAT16)

    @property
    def plain_dtype(self) -> np.dtype:
        """The dtype of its values in the file, if it has no indices."""
        return numpy_dtype("float16" if self.storage == FLOAT16 else self.dtype)


def numpy_dtype(name: str) -> np.dtype:
    """Returns the little-endian NumPy dtype of a name in `DTYPES`.

    Raises:
        ImportError: bfloat16 is asked for, and `ml_dtypes` is not installed.
    """
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<")


def fits(first: VariableKind, second: VariableKind) -> bool:
    """Tells whether a variable can take the values of another.

    Shapes and dtypes must be equal, but integers may differ in width: Keras keeps the
    state of random generators as int64 or uint32, depending on the backend.
    """
    dtypes = first[1], second[1]
    integers = all(np.issubdtype(numpy_dtype(dtype), np.integer) for dtype in dtypes)
    return first[0] == second[0] and (dtypes[0] == dtypes[1] or integers)


def max_entries(num_bytes: int) -> int:
    """Returns the number of entries that a file of this size may declare at most."""
    return _FREE_ENTRIES + _ENTRIES_PER_BYTE * num_bytes


def max_tensors(num_bytes: int) -> int:
    """Returns the number of tensors that a file of this size may declare at most."""
    return _FREE_TENSORS + num_bytes // _BYTES_PER_TENSOR


def encode_table(entries: Sequence[TensorEntry]) -> bytes:
    """Encodes the table."""
    return pack(b"".join(_encode_entry(entry) for entry in entries))


def _encode_entry(entry: TensorEntry) -> bytes:
    dtype = DTYPES.index(entry.dtype)
    plain = _PLAIN[VERSION]
    if entry.has_indices:
        storage = len(plain) + 2 * entry.codebook + (entry.storage == BULK)
    else:
        storage = plain.index(entry.storage)
    head = varint(storage << 1 | (dtype > 0)) + (bytes([dtype]) if dtype else b"")
    return head + varint(len(entry.shape)) + b"".join(map(varint, entry.shape))


def decode_table(
    reader: ByteReader, num_bytes: int, version: int = VERSION
) -> list[TensorEntry]:
    """Returns the entries that `encode_table` was given.

    Args:
        reader: reader at the beginning of the table.
        num_bytes: size of the file, which limits the number of weights; see `max_entries`.
        version: of the format.

    Raises:
        CompressedFileError: the table is damaged, or declares too many weights.
    """
    table = ByteReader(unpack(reader, _MAX_TABLE_BYTES))
    entries: list[TensorEntry] = []
    left = max_entries(num_bytes)
    while table.remaining:
        if len(entries) == max_tensors(num_bytes):
            raise CompressedFileError(
                f"The file of {num_bytes} bytes declares more than {max_tensors(num_bytes)} "
                "tensors, which no model of that size has. Do not use it."
            )
        entry = _decode_entry(table, _PLAIN[version])
        left -= entry.size
        if left < 0:
            raise CompressedFileError(
                f"The file of {num_bytes} bytes declares more than {max_entries(num_bytes)} "
                "weights, which no model of that size has. Do not use it."
            )
        entries.append(entry)
    return entries


def _decode_entry(table: ByteReader, plain: tuple[int, ...]) -> TensorEntry:
    number, has_dtype = divmod(table.varint(), 2)
    dtype = table.byte() if has_dtype else 0
    rank = table.varint()
    if dtype >= len(DTYPES) or rank > _MAX_RANK or number > 2 * _MAX_CODEBOOKS:
        raise CompressedFileError(
            f"A tensor cannot have dtype number {dtype}, {rank} axes and storage {number}. "
            "The file is damaged; copy or download it again."
        )
    shape = tuple(table.varint() for _ in range(rank))
    codebook, is_bulk = divmod(max(0, number - len(plain)), 2)
    storage = plain[number] if number < len(plain) else (ADAPTIVE, BULK)[is_bulk]
    entry = TensorEntry(shape, DTYPES[dtype], storage, codebook)
    is_coded = entry.has_indices or storage == NUMBERS
    if is_coded and (not entry.size or entry.dtype not in CLUSTERABLE):
        raise CompressedFileError(
            f"A tensor of shape {shape} and dtype {entry.dtype} cannot have a codebook, nor be "
            "coded as floats. The file is damaged; copy or download it again."
        )
    return entry
