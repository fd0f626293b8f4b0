"""Chooses which tensors share a codebook, and writes and reads codebooks.

A codebook holds the non-zero values of its tensors in ascending order. Symbol 0 stands
for zero in every codebook, symbol s for value number s - 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.byte_io import ByteReader
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.grids import GRID_BYTES, MOST_VALUES, step_of
from tfmot_sws.coding.matrix import Symbols
from tfmot_sws.coding.numbers import precision_of
from tfmot_sws.coding.table import CLUSTERABLE, numpy_dtype
from tfmot_sws.models.entropy import MAX_CODEBOOK_SIZE, entropy_bits

# The non-zero values, ascending, shape (V,).
Codebook = NDArray[np.float32]

# By their number in the file.
_FORMATS: Final = ("float32", "float16", "bfloat16")
# A few values show that a tensor is not clustered, which saves sorting all of them.
_HEAD: Final = 1 << 12
# Plain floats deflate to about this part of their size: only the exponents compress.
_PLAIN_RATIO: Final = 0.88
# Sign, exponent and the bits of mantissa that all share take about so many bits of a number.
_HEAD_BITS: Final = 3.0
_LARGE: Final = 1 << 14


@dataclasses.dataclass(frozen=True)
class _Values:
    """The distinct non-zero values of a tensor, and its size with and without indices."""

    nonzeros: Codebook
    num_nonzeros: int
    index_bytes: float
    plain_bytes: float
    value_bytes: float
    size: int

    def cost_in(self, codebook: set[float]) -> float:
        """Estimates the bytes that the tensor adds to a file with this codebook."""
        joined = codebook.union(self.nonzeros.tolist())
        union = len(joined)
        # Symbols that the tensor does not use take probability from the others until the
        # coder has learned that they are absent.
        spread = np.log2(max(1, union) / max(1, self.nonzeros.size))
        dilution = min(self.num_nonzeros * spread / 8, union)
        added = self._bytes_of(joined) - self._bytes_of(codebook)
        return added + self.index_bytes + dilution

    def _bytes_of(self, codebook: set[float]) -> float:
        """Estimates the bytes of a codebook; a grid costs the same whatever it holds."""
        as_list = self.value_bytes * len(codebook)
        if as_list <= GRID_BYTES or len(codebook) > MOST_VALUES:
            return as_list
        is_grid = step_of(np.array(list(codebook), np.float32)) is not None
        return GRID_BYTES if is_grid else as_list


def assign_codebooks(
    arrays: Sequence[NDArray[Any]],
) -> tuple[list[Codebook], list[int | None]]:
    """Chooses the codebooks that make codebooks and indices together small.

    Returns:
        The codebooks, and for each array the number of its codebook. The number is `None`
        if the array is smaller without one, or if a codebook would not keep every bit.
    """
    found = {i: values for i, array in enumerate(arrays) if (values := _values(array))}
    codebooks: list[set[float]] = []
    numbers: list[int | None] = [None] * len(arrays)
    # Large tensors come first and found the codebooks; small ones join a codebook that
    # has most of their values already.
    for number in sorted(found, key=lambda i: -found[i].size):
        numbers[number] = _join(codebooks, found[number])
    return [np.array(sorted(values), np.float32) for values in codebooks], numbers


def _join(codebooks: list[set[float]], values: _Values) -> int | None:
    """Adds the values to the cheapest codebook and returns its number; `None` for none."""
    own = set(values.nonzeros.tolist())
    costs = {
        number: values.cost_in(codebook)
        for number, codebook in enumerate(codebooks)
        if len(codebook | own) <= MAX_CODEBOOK_SIZE
    }
    # The head of a new codebook takes two bytes.
    costs[len(codebooks)] = values.cost_in(set()) + 2
    best = min(costs, key=costs.__getitem__)
    if costs[best] >= values.plain_bytes:
        return None
    if best == len(codebooks):
        codebooks.append(set())
    codebooks[best] |= own
    return best


def _values(array: NDArray[Any]) -> _Values | None:
    if array.dtype.name not in CLUSTERABLE or not array.size:
        return None
    flat = array.reshape(-1)
    zero = flat == 0
    if np.signbit(flat[zero]).any() or _distinct(flat[:_HEAD]).size > MAX_CODEBOOK_SIZE:
        return None
    if zero.all() or (flat == 1).all():
        return None
    values, counts = np.unique(flat[~zero].astype(np.float32), return_counts=True)
    if values.size > MAX_CODEBOOK_SIZE or np.isnan(values).any():
        return None
    index_bytes = 1 + entropy_bits([*counts, array.size - counts.sum()]) * array.size / 8
    precision = precision_of(values)
    if precision is None:
        return None
    value_bytes = (_HEAD_BITS + precision.length) / 8
    plain_bytes = _PLAIN_RATIO * array.nbytes
    if array.size <= _LARGE:
        plain_bytes = min(plain_bytes, value_bytes * array.size)
    return _Values(values, int(counts.sum()), index_bytes, plain_bytes, value_bytes, array.size)


def _distinct(flat: NDArray[Any]) -> NDArray[Any]:
    values = np.unique(flat.astype(np.float32))
    return values[values != 0]


def to_symbols(array: NDArray[Any], codebook: Codebook) -> Symbols:
    """Returns the symbols of a tensor whose values are all zero or in the codebook."""
    symbols = empty_symbols(array.shape, codebook).reshape(-1)
    flat = array.reshape(-1)
    places = np.flatnonzero(flat)
    symbols[places] = np.searchsorted(codebook, flat[places].astype(np.float32)) + 1
    return symbols.reshape(array.shape)


def empty_symbols(shape: tuple[int, ...], codebook: Codebook) -> Symbols:
    """Returns zeros of the smallest dtype that holds every symbol."""
    return np.zeros(shape, np.uint8 if codebook.size < 256 else np.uint16)


def check_codebook(codebook: Codebook) -> Codebook:
    """Returns a codebook that was read, if its values can be those of one.

    Raises:
        CompressedFileError: the values are not ascending, or zero, or NaN.
    """
    ascending = np.all(codebook[1:] > codebook[:-1])
    if not ascending or np.any(codebook == 0) or np.isnan(codebook).any():
        raise CompressedFileError(
            "The values of a codebook are not ascending, or zero or NaN. The file is "
            "damaged; copy or download it again."
        )
    return codebook


def decode_codebook(reader: ByteReader) -> Codebook:
    """Reads a codebook of version 1 of the format.

    Raises:
        CompressedFileError: the values are not ascending, or zero, or NaN, or too many.
    """
    size, number = divmod(reader.varint(), 4)
    if size > MAX_CODEBOOK_SIZE or number >= len(_FORMATS):
        raise CompressedFileError(
            f"A codebook of {size} values in format {number}; at most {MAX_CODEBOOK_SIZE} "
            "were expected. The file is damaged; copy or download it again."
        )
    return check_codebook(_read_values(reader, size, _FORMATS[number]))


def _read_values(reader: ByteReader, size: int, dtype: str) -> Codebook:
    if dtype == "bfloat16":
        # The upper half of a float32, so NumPy alone can read it.
        halves = np.frombuffer(reader.take(2 * size), "<u2").astype(np.uint32)
        return (halves << 16).view(np.float32)
    stored = numpy_dtype(dtype)
    return np.frombuffer(reader.take(size * stored.itemsize), stored).astype(np.float32)
