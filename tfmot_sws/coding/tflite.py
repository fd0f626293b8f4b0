"""What weighs in a .tflite file: its constant tensors, read from the flatbuffer.

References:
    TensorFlow Lite schema, `tensorflow/compiler/mlir/lite/schema/schema.fbs`.
"""

from __future__ import annotations

import dataclasses
import gzip
import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

# Name and bits of the schema's TensorType, by its number.
_TYPES: Final = {
    0: ("float32", 32), 1: ("float16", 16), 2: ("int32", 32), 3: ("uint8", 8),
    4: ("int64", 64), 6: ("bool", 8), 7: ("int16", 16), 9: ("int8", 8),
    10: ("float64", 64), 12: ("uint64", 64), 15: ("uint32", 32), 16: ("uint16", 16),
    17: ("int4", 4), 18: ("bfloat16", 16), 19: ("int2", 2),
}  # fmt: skip
_IDENTIFIER: Final = b"TFL3"
# Numbers of the fields in the schema's tables.
_MODEL_SUBGRAPHS, _MODEL_BUFFERS = 2, 4
_SUBGRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME = 0, 1, 2, 3
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class ConstantTensor:
    """One constant tensor of a .tflite file.

    Args:
        name: its name.
        shape: its shape.
        dtype: name of its type.
        zeros: stored numbers that are zero; of packed types, bytes that are.
        stored_bytes: its size in the file.
        gzip_bytes: its size under gzip.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    zeros: int
    stored_bytes: int
    gzip_bytes: int


@dataclasses.dataclass(frozen=True)
class TfliteReport:
    """The constant tensors of a .tflite file, and its size."""

    tensors: tuple[ConstantTensor, ...]
    file_bytes: int
    gzip_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Totals and records as plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def print(self, console: Console) -> None:
        """Shows the report as a table on the terminal."""
        table = Table(title="Constant tensors", box=SIMPLE, show_footer=True)
        table.add_column("tensor", "file", overflow="fold")
        for name, footer in (
            ("shape", ""),
            ("type", ""),
            ("zeros", ""),
            ("bytes", f"{self.file_bytes:,}"),
            ("gzip", f"{self.gzip_bytes:,}"),
        ):
            table.add_column(name, footer, justify="right")
        for t in self.tensors:
            shape = "x".join(map(str, t.shape)) or "scalar"
            numbers = (f"{n:,}" for n in (t.zeros, t.stored_bytes, t.gzip_bytes))
            table.add_row(t.name, shape, t.dtype, *numbers)
        console.print(table)


def tflite_report(data: bytes) -> TfliteReport:
    """Lists the constant tensors of a .tflite file; those that share a buffer count once.

    Raises:
        ValueError: when the data is no readable .tflite file.
    """
    try:
        if data[4:8] != _IDENTIFIER:
            raise ValueError(f"it begins with {data[:8]!r}")
        tensors = tuple(_constant_tensors(data))
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"Not a readable .tflite file: {error}.") from error
    return TfliteReport(tensors, len(data), len(gzip.compress(data)))


def _constant_tensors(data: bytes) -> Iterator[ConstantTensor]:
    model = _Table(data, _uint(data, 0))
    buffers = list(model.tables(_MODEL_BUFFERS))
    seen = set()
    for graph in model.tables(_MODEL_SUBGRAPHS):
        for tensor in graph.tables(_SUBGRAPH_TENSORS):
            number = tensor.scalar(_TENSOR_BUFFER, "<I")
            content = _content(data, buffers[number])
            if content and number not in seen:
                seen.add(number)
                yield _record(tensor, content)


def _record(tensor: _Table, content: bytes) -> ConstantTensor:
    number = tensor.scalar(_TENSOR_TYPE, "<b")
    dtype, bits = _TYPES.get(number, (f"type {number}", 8))
    whole = len(content) % max(1, bits // 8) == 0
    values = np.frombuffer(content, f"u{max(1, bits // 8)}" if whole else "u1")
    return ConstantTensor(
        name=tensor.string(_TENSOR_NAME),
        shape=tensor.numbers(_TENSOR_SHAPE),
        dtype=dtype,
        zeros=int(values.size - np.count_nonzero(values)),
        stored_bytes=len(content),
        gzip_bytes=len(gzip.compress(content)),
    )


def _content(data: bytes, buffer: _Table) -> bytes:
    inside = buffer.bytes(_BUFFER_DATA)
    offset, size = buffer.scalar(_BUFFER_OFFSET, "<Q"), buffer.scalar(_BUFFER_SIZE, "<Q")
    # Large models keep their buffers behind the flatbuffer; 1 stands for none.
    return inside or (data[offset : offset + size] if offset > 1 else b"")


def _uint(data: bytes, position: int) -> int:
    return int(struct.unpack_from("<I", data, position)[0])


class _Table:
    """A table of a flatbuffer; absent fields read as zero or empty."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position
        self._fields = position - struct.unpack_from("<i", data, position)[0]

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if self._fields < 0 or entry >= struct.unpack_from("<H", self._data, self._fields)[0]:
            return None
        offset = struct.unpack_from("<H", self._data, self._fields + entry)[0]
        return self._position + offset if offset else None

    def scalar(self, field: int, form: str) -> int:
        place = self._place(field)
        return 0 if place is None else int(struct.unpack_from(form, self._data, place)[0])

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        """Where the items of a vector begin, and how many there are."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + _uint(self._data, place)
        size = _uint(self._data, start)
        if start + 4 + size * width > len(self._data):
            raise ValueError("a vector reaches beyond its end")
        return start + 4, size

    def bytes(self, field: int) -> bytes:
        start, size = self._vector(field, 1)
        return self._data[start : start + size]

    def string(self, field: int) -> str:
        return self.bytes(field).decode(errors="replace")

    def numbers(self, field: int) -> tuple[int, ...]:
        start, size = self._vector(field, 4)
        return struct.unpack_from(f"<{size}i", self._data, start)

    def tables(self, field: int) -> Iterator[_Table]:
        start, size = self._vector(field, 4)
        for place in range(start, start + 4 * size, 4):
            yield _Table(self._data, place + _uint(self._data, place))
