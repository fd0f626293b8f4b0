"""The non-zero entries of a tensor and their places, as a .tflite file stores them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray


class CompressedRows:
    """A tensor whose last axis is sparse and whose other axes are dense.

    Args:
        tensor: of two axes or more.
    """

    def __init__(self, tensor: NDArray[np.int8]) -> None:
        self._shape = tensor.shape
        self._rows = tensor.reshape(-1, tensor.shape[-1])
        self._nonzero = self._rows != 0

    @property
    def values(self) -> NDArray[np.int8]:
        """The non-zero entries, row by row."""
        return self._rows[self._nonzero]

    @functools.cached_property
    def _indices(self) -> NDArray[np.integer[Any]]:
        """Their places in their rows."""
        return _narrow(np.nonzero(self._nonzero)[1])

    @functools.cached_property
    def _segments(self) -> NDArray[np.integer[Any]]:
        """Where each row begins in `values`, and where the last one ends."""
        return _narrow(np.append(0, np.cumsum(np.count_nonzero(self._nonzero, axis=1))))

    @property
    def size(self) -> int:
        """Number of bytes of values and places."""
        return self.values.nbytes + self._indices.nbytes + self._segments.nbytes

    def parameters(self) -> Any:
        """Makes LiteRT's record of the places."""
        from ai_edge_litert import schema_py_generated as schema

        sparsity = schema.SparsityParametersT()
        sparsity.traversalOrder = np.arange(len(self._shape), dtype=np.int32)
        sparsity.dimMetadata = [_dense_axis(size) for size in self._shape[:-1]]
        last = schema.DimensionMetadataT()
        last.format = schema.DimensionType.SPARSE_CSR
        last.arraySegmentsType, last.arraySegments = _vector(self._segments)
        last.arrayIndicesType, last.arrayIndices = _vector(self._indices)
        sparsity.dimMetadata.append(last)
        return sparsity


def _narrow(numbers: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Converts numbers to the narrowest type that LiteRT knows."""
    greatest = np.max(numbers, initial=0)
    types = (np.uint8, np.uint16, np.int32)
    return numbers.astype(next(t for t in types if greatest <= np.iinfo(t).max))


def _dense_axis(size: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    axis = schema.DimensionMetadataT()
    axis.format, axis.denseSize = schema.DimensionType.DENSE, size
    return axis


def _vector(numbers: NDArray[np.integer[Any]]) -> tuple[int, Any]:
    from ai_edge_litert import schema_py_generated as schema

    name = {1: "Uint8Vector", 2: "Uint16Vector", 4: "Int32Vector"}[numbers.itemsize]
    vector = getattr(schema, f"{name}T")()
    vector.values = numbers
    return getattr(schema.SparseIndexVector, name), vector
