"""Reads the weights in a .tflite file, with the flatbuffer schema that LiteRT ships."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.litert.frugal_file import check_tflite, read_weights

# Types of weights. Constants of other types are shapes, axes, and biases of integer files.
_DTYPES: Final = {
    "FLOAT32": "float32",
    "FLOAT16": "float16",
    "INT8": "int8",
    "INT4": "int4",
    "INT2": "int2",
}
# Of those, the types that lie several in a byte, with their width in bits.
_PACKED: Final = {"int4": 4, "int2": 2}

_IDENTIFIER: Final = b"TFL3"

# The schema's generated code checks nothing, and raises any of these on a damaged file.
_DAMAGED: Final = (
    AttributeError,
    IndexError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclasses.dataclass(frozen=True)
class TfliteTensor:
    """One weight tensor as a .tflite file stores it.

    Args:
        name: its name in the file.
        shape: its shape there.
        dtype: "float32", "float16", "int8", "int4" or "int2".
        distinct: number of distinct stored values, zero included.
        distinct_per_channel: the greatest such number of one channel, if each channel has
            a scale; else the same as `distinct`.
        zeros: number of entries that are exactly zero.
        sparse: whether only the non-zero entries are stored.
        stored_bytes: bytes of its values in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    distinct: int
    distinct_per_channel: int
    zeros: int
    sparse: bool
    stored_bytes: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))


def stored_tensors(tflite: bytes) -> tuple[TfliteTensor, ...]:
    """Counts the weights in a .tflite file: constants of two or more entries, each once.

    Args:
        tflite: the bytes of a .tflite file.

    Returns:
        One record per tensor, in the order of the file. Look-up tables for TensorFlow Lite
        Micro are left out, because the file does not store them as tensors.

    Raises:
        ValueError: the data is no readable .tflite file, or one made to take long.
    """
    check_tflite(tflite)
    try:
        file = read_weights(tflite)
        return tuple(_count(file, *constant) for constant in constants(file))
    except _DAMAGED as error:
        raise ValueError(f"Not a readable .tflite file: {error}") from error


def parse(tflite: bytes) -> Any:
    """Parses a file into objects of LiteRT's schema.

    Raises:
        ValueError: the data is no .tflite file.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    if tflite[4:8] != _IDENTIFIER:
        raise ValueError(f"Not a .tflite file: it begins with {tflite[:8]!r}.")
    return flatbuffer_utils.read_model_from_bytearray(tflite)


def unparse(file: Any) -> bytes:
    """Writes a parsed file again, equal arrays once; the inverse of `parse`."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        """Refers to an array that the file has already, in place of writing it again."""

        def CreateNumpyVector(self, x: NDArray) -> Any:  # noqa: N802
            key = (x.dtype.str, x.tobytes())
            if key not in written:
                written[key] = super().CreateNumpyVector(x)
            return written[key]

    written: dict[tuple[str, bytes], Any] = {}
    builder = Builder()
    builder.Finish(file.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def unpack(data: NDArray[np.uint8], bits: int, size: int) -> NDArray[np.int8]:
    """Unpacks integers of 2 or 4 bits, the lowest of a byte first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = ((data[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:size]
    return (fields.astype(np.int8) ^ np.int8(2 ** (bits - 1))) - np.int8(2 ** (bits - 1))


def constants(file: Any) -> Iterator[tuple[Any, NDArray]]:
    """Yields the weight tensors of a parsed file with their values; a shared buffer once."""
    dtypes = _dtype_names()
    seen = set()
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            data = file.buffers[tensor.buffer].data
            # A sparse tensor whose entries are all zero has no data.
            known = data is not None or tensor.sparsity is not None
            if not known or tensor.type not in dtypes or tensor.buffer in seen:
                continue
            if data is not None:
                seen.add(tensor.buffer)
            if np.prod(tensor.shape) > 1:
                content = b"" if data is None else bytes(data)
                yield tensor, _values(content, dtypes[tensor.type], int(np.prod(tensor.shape)))


def _dtype_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    # An older schema lacks the types of a few bits.
    types = {getattr(schema.TensorType, name, None): d for name, d in _DTYPES.items()}
    return {number: dtype for number, dtype in types.items() if number is not None}


def _values(content: bytes, dtype: str, size: int) -> NDArray:
    if dtype in _PACKED:
        return unpack(np.frombuffer(content, np.uint8), _PACKED[dtype], size)
    return np.frombuffer(content, dtype)


def has_loop(file: Any) -> bool:
    """Tells whether a parsed file has a while loop; recurrent layers become one."""
    return "WHILE" in operator_names(file)


def operator_names(file: Any) -> list[str]:
    """The name of each of a parsed file's operator codes, as in LiteRT's schema."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    return [names.get(code.builtinCode, "") for code in file.operatorCodes or []]


def _count(file: Any, tensor: Any, values: NDArray) -> TfliteTensor:
    data = file.buffers[tensor.buffer].data
    shape = tuple(int(n) for n in tensor.shape)
    sparse = tensor.sparsity is not None
    # NumPy 2.4 sorts float16 wrongly on processors with AVX-512.
    numbers = values.astype(np.float32) if values.dtype == np.float16 else values
    zeros = int(np.prod(shape)) - int(np.count_nonzero(numbers))
    distinct = np.unique(numbers[numbers != 0]).size + (zeros > 0)
    per_channel = distinct if sparse else _greatest_per_channel(tensor, numbers.reshape(shape))
    return TfliteTensor(
        name=tensor.name.decode(errors="replace"),
        shape=shape,
        dtype=_dtype_names()[tensor.type],
        distinct=distinct,
        distinct_per_channel=per_channel,
        zeros=zeros,
        sparse=sparse,
        stored_bytes=0 if data is None else len(data),
    )


def _greatest_per_channel(tensor: Any, values: NDArray) -> int:
    scales = getattr(tensor.quantization, "scale", None)
    if scales is None or len(scales) < 2:
        return int(np.unique(values).size)
    if not values.size:
        return 0
    channels = np.moveaxis(values, tensor.quantization.quantizedDimension, 0)
    ordered = np.sort(channels.reshape(len(channels), -1), axis=1)
    return 1 + int(np.count_nonzero(np.diff(ordered, axis=1), axis=1).max())
