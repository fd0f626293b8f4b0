"""Codes tensors without a codebook: regroups their bytes, then deflates them.

The first bytes of all numbers come first, then all second bytes, and so on. Signs and
exponents repeat, unlike mantissas, so deflate compresses them better side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.byte_io import ByteReader
from tfmot_sws.coding.deflate import pack, unpack
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.table import TensorEntry


def encode_plain(tensors: Iterable[tuple[TensorEntry, NDArray[Any]]]) -> bytes:
    """Encodes the values of all tensors, each in the dtype that its entry names."""
    groups: dict[np.dtype, list[NDArray[Any]]] = {}
    for entry, array in tensors:
        values = array.reshape(-1).astype(entry.plain_dtype)
        groups.setdefault(entry.plain_dtype, []).append(values)
    return pack(b"".join(_planes(dtype, parts) for dtype, parts in groups.items()))


def _planes(dtype: np.dtype, parts: list[NDArray[Any]]) -> bytes:
    flat = np.concatenate(parts)
    return flat.view(np.uint8).reshape(-1, dtype.itemsize).T.tobytes()


def decode_plain(reader: ByteReader, entries: Sequence[TensorEntry]) -> list[NDArray[Any]]:
    """Returns the tensors that `encode_plain` was given, in their own dtypes.

    Raises:
        CompressedFileError: there are more or fewer bytes than the entries need.
    """
    groups: dict[np.dtype, list[int]] = {}
    for number, entry in enumerate(entries):
        groups.setdefault(entry.plain_dtype, []).append(number)
    size = sum(entry.size * entry.plain_dtype.itemsize for entry in entries)
    data = ByteReader(unpack(reader, size))
    if data.remaining != size:
        raise CompressedFileError(
            f"The plain values have {data.remaining} bytes, {size} were declared. The "
            "file is damaged; copy or download it again."
        )
    arrays: dict[int, NDArray[Any]] = {}
    for dtype, numbers in groups.items():
        sizes = [entries[number].size for number in numbers]
        parts = np.split(_from_planes(data, dtype, sum(sizes)), np.cumsum(sizes)[:-1])
        arrays |= dict(zip(numbers, parts, strict=True))
    return [_restore(arrays[number], entry) for number, entry in enumerate(entries)]


def _from_planes(data: ByteReader, dtype: np.dtype, size: int) -> NDArray[Any]:
    planes = np.frombuffer(data.take(size * dtype.itemsize), np.uint8)
    return np.ascontiguousarray(planes.reshape(dtype.itemsize, size).T).view(dtype).reshape(-1)


def _restore(values: NDArray[Any], entry: TensorEntry) -> NDArray[Any]:
    return values.astype(np.dtype(entry.dtype)).reshape(entry.shape)
