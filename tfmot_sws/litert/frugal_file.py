"""Reads of a .tflite file only what its weights need, with work bounded by its size.

A flatbuffer is a graph of references: a file of some kilobytes can refer to the same tensors
a million times over, and to the same name or values from each. LiteRT's own reader unpacks
all of it. Here each reference that is followed and each byte that is read is counted.
"""

from __future__ import annotations

import os
import pathlib
import types
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from tfmot_sws.arguments import check_kind

# A file as it is given: a path, or the content itself.
TfliteFile = bytes | bytearray | memoryview | str | os.PathLike[str]

# A tensor takes at least so many bytes in a file that refers to each once.
_BYTES_PER_TABLE: Final = 16
# Writers may share names and shapes between a few tensors.
_MAX_SHARING: Final = 4
_FREE_TABLES: Final = 64


class _Budget:
    """What may still be read of one file."""

    def __init__(self, num_bytes: int) -> None:
        self._tables = _FREE_TABLES + num_bytes // _BYTES_PER_TABLE
        self._bytes = _MAX_SHARING * num_bytes

    def tables(self, number: int) -> range:
        """The numbers of so many tables, which are about to be read."""
        self._tables -= number
        self._check()
        return range(number)

    def array(self, array: Any) -> Any:
        """An array of a file; it is a view, so nothing has been read yet."""
        if not isinstance(array, np.ndarray):
            return None
        self._bytes -= array.nbytes
        self._check()
        return array

    def _check(self) -> None:
        if min(self._tables, self._bytes) < 0:
            raise ValueError(
                "it refers to its parts many times over, so that reading it would take far "
                "longer than its size justifies"
            )


def tflite_bytes(tflite: TfliteFile) -> bytes:
    """The content of a .tflite file.

    Args:
        tflite: the content itself, or a path.

    Raises:
        OSError: the path cannot be read.
        TypeError: neither of the two.
        ValueError: the content is not that of a .tflite file.
    """
    if isinstance(tflite, str | os.PathLike):
        tflite = pathlib.Path(tflite).read_bytes()
    check_kind("tflite", tflite, (bytes, bytearray, memoryview), "a path, or a file's bytes")
    check_tflite(bytes(tflite))
    return bytes(tflite)


def check_tflite(tflite: bytes) -> None:
    """Raises `ValueError` if this is not the content of a .tflite file."""
    if tflite[4:8] != b"TFL3":
        raise ValueError(f"Not a .tflite file: it begins with {tflite[:8]!r}.")


def read_weights(tflite: bytes) -> Any:
    """Returns the graphs, tensors and buffers of a file, with the names of LiteRT's schema.

    Args:
        tflite: the bytes of a .tflite file.

    Raises:
        ValueError: the data is no .tflite file, or one made to take long.
    """
    from ai_edge_litert import schema_py_generated as schema

    check_tflite(tflite)
    model, budget = schema.Model.GetRootAs(tflite, 0), _Budget(len(tflite))
    graphs = [model.Subgraphs(i) for i in budget.tables(model.SubgraphsLength())]
    buffers = [model.Buffers(i) for i in budget.tables(model.BuffersLength())]
    return types.SimpleNamespace(
        subgraphs=[_graph(graph, budget) for graph in graphs],
        buffers=_Buffers(buffers, tflite, budget),
    )


def _graph(graph: Any, budget: _Budget) -> Any:
    tensors = [graph.Tensors(i) for i in budget.tables(graph.TensorsLength())]
    return types.SimpleNamespace(tensors=list(_tensors(tensors, budget)))


def _tensors(tensors: list[Any], budget: _Budget) -> Iterator[Any]:
    for tensor in tensors:
        quantization = tensor.Quantization()
        name = tensor.Name() or b""
        budget.array(np.frombuffer(name, np.uint8))
        shape = budget.array(tensor.ShapeAsNumpy())
        yield types.SimpleNamespace(
            name=name,
            shape=[] if shape is None else shape,
            type=tensor.Type(),
            buffer=tensor.Buffer(),
            sparsity=tensor.Sparsity(),
            quantization=types.SimpleNamespace(
                scale=quantization and budget.array(quantization.ScaleAsNumpy()),
                quantizedDimension=quantization.QuantizedDimension() if quantization else 0,
            ),
        )


class _Buffers:
    """The buffers of a file, each read when it is asked for."""

    def __init__(self, buffers: list[Any], tflite: bytes, budget: _Budget) -> None:
        self._buffers, self._tflite, self._budget = buffers, tflite, budget
        self._read: dict[int, Any] = {}

    def __getitem__(self, number: int) -> Any:
        if number not in self._read:
            self._read[number] = types.SimpleNamespace(data=self._data(self._buffers[number]))
        return self._read[number]

    def _data(self, buffer: Any) -> Any:
        if not buffer.Offset():
            return self._budget.array(buffer.DataAsNumpy())
        # Large files keep their values behind the flatbuffer.
        values = self._tflite[buffer.Offset() : buffer.Offset() + buffer.Size()]
        return self._budget.array(np.frombuffer(values, np.uint8))
