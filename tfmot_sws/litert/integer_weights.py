"""Stores the weights of a float .tflite file as integers, each with a DEQUANTIZE behind it.

LiteRT expands int8 weights once, when it loads the file, and then computes as with the float
file. That holds for every operator and every axis of channels. A DENSIFY in front lets the
file hold the non-zero integers alone. Integers of 4 and 2 bits work as well, but LiteRT 2.3
then computes a dense layer in about twice the time. The AI Edge Quantizer, which writes such
files too, leaves out embeddings and rounds where each channel has a step.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.litert.compressed_rows import CompressedRows
from tfmot_sws.litert.file import constants, operator_names, parse, unparse
from tfmot_sws.litert.integers import Integers

# Of a float tensor, the integers to store in its place; `None` leaves it float32.
Choose = Callable[[str, NDArray[np.float32]], Integers | None]

# What an operator and a tensor more take in the file.
_OVERHEAD_BYTES: Final = 256
# Each step has a zero point, 8 bytes of zeros.
_STEP_BYTES: Final = 4 + 8


@dataclasses.dataclass(frozen=True)
class Storage:
    """How integers lie in the file.

    Args:
        bits: 2, 4 or 8.
        sparse: only the non-zero ones, of 8 bits, with their places.
    """

    bits: int
    sparse: bool = False

    def size(self, integers: Integers) -> int:
        """Counts the bytes that a tensor takes in the file."""
        head = integers.steps.size * _STEP_BYTES + _OVERHEAD_BYTES
        if self.sparse:
            return head + _OVERHEAD_BYTES + CompressedRows(integers.integers).size
        return head + -(-integers.integers.size * self.bits // 8)


INT8: Final = Storage(8)


def smallest_storage(integers: Integers) -> Storage:
    """Returns the storage that takes the fewest bytes."""
    options = (Storage(integers.bits), Storage(8, sparse=True))
    return min(options, key=lambda storage: storage.size(integers))


def store_as_integers(
    tflite: bytes,
    choose: Choose,
    storage: Callable[[Integers], Storage] = lambda _: INT8,
) -> bytes:
    """Stores constants of two axes or more as integers, if that takes fewer bytes.

    Args:
        tflite: the bytes of a float32 .tflite file.
        choose: gives the integers of a tensor, by its name and values, or `None`.
        storage: says how to store these integers.

    Returns:
        The bytes of a file that computes with `Integers.values` in place of each tensor.
    """
    file = parse(tflite)
    looked_up = set(_looked_up(file))
    chosen = {}
    for tensor, values in constants(file):
        if len(tensor.shape) < 2 or values.dtype != np.float32 or tensor.sparsity is not None:
            continue
        found = choose(tensor.name.decode(), values.reshape(tensor.shape))
        if found is None:
            continue
        kind = storage(found)
        if kind.sparse and tensor.buffer in looked_up:
            kind = Storage(found.bits)
        if kind.size(found) < values.nbytes:
            chosen[tensor.buffer] = _Stored.add(file, found, kind)
    for graph in file.subgraphs:
        _insert(file, graph, chosen)
    for buffer in chosen:
        file.buffers[buffer].data = None
    leave_out(file)
    return unparse(file)


def _looked_up(file: Any) -> Iterator[int]:
    """The buffers from which rows are looked up, as from an embedding.

    LiteRT 2.3 gives wrong rows where a DENSIFY stands in front.
    """
    names = operator_names(file)
    for graph in file.subgraphs:
        for operator in graph.operators or []:
            if names[operator.opcodeIndex] == "GATHER":
                yield graph.tensors[operator.inputs[0]].buffer


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Integers whose data lies in a buffer of the file."""

    integers: Integers
    storage: Storage
    buffer: int

    @classmethod
    def add(cls, file: Any, integers: Integers, storage: Storage) -> _Stored:
        from ai_edge_litert import schema_py_generated as schema

        buffer = schema.BufferT()
        values = integers.integers
        values = CompressedRows(values).values if storage.sparse else values
        buffer.data = pack(values, storage.bits)
        file.buffers.append(buffer)
        return cls(integers, storage, len(file.buffers) - 1)

    def tensor(self, name: bytes, shape: Any) -> Any:
        """The dense tensor of integers, without data if the stored one is sparse."""
        from ai_edge_litert import schema_py_generated as schema

        steps = self.integers.steps
        parameters = schema.QuantizationParametersT()
        parameters.scale, parameters.zeroPoint = steps, np.zeros(steps.size, np.int64)
        parameters.quantizedDimension = self.integers.axis or 0
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.quantization = name, shape, parameters
        tensor.type = getattr(schema.TensorType, f"INT{self.storage.bits}")
        # Tensors without data have the first buffer, which is always empty.
        tensor.buffer = 0 if self.storage.sparse else self.buffer
        return tensor

    def sparse_tensor(self, name: bytes, shape: Any) -> Any:
        """The tensor of the non-zero integers."""
        tensor = self.tensor(name, shape)
        tensor.buffer = self.buffer
        tensor.sparsity = CompressedRows(self.integers.integers).parameters()
        return tensor

    @property
    def version_of_dequantize(self) -> int:
        """As LiteRT counts: 2 reads int8, 5 a step a channel, 6 int4, and 7, the next, int2."""
        return {8: 2 if self.integers.axis is None else 5, 4: 6, 2: 7}[self.storage.bits]


def _insert(file: Any, graph: Any, chosen: dict[int, _Stored]) -> None:
    """Puts what makes floats of integers in front of the graph."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    operators = []
    for position, tensor in enumerate(list(graph.tensors)):
        stored = chosen.get(tensor.buffer)
        if stored is None:
            continue
        source = len(graph.tensors)
        graph.tensors.append(stored.tensor(tensor.name, tensor.shape))
        if stored.storage.sparse:
            graph.tensors.append(stored.sparse_tensor(tensor.name, tensor.shape))
            operators.append(_operator(file, kinds.DENSIFY, 1, source + 1, source))
        version = stored.version_of_dequantize
        operators.append(_operator(file, kinds.DEQUANTIZE, version, source, position))
        tensor.buffer = 0
    graph.operators = [*operators, *(graph.operators or [])]


def leave_out(file: Any) -> None:
    """Takes away what no reader needs: in a small network it took more than the biases."""
    for graph in file.subgraphs:
        _name_weights(file, graph)
        for tensor in graph.tensors:
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
            _as_arrays(tensor, "shape", "shapeSignature")
        for operator in graph.operators:
            _as_arrays(operator, "inputs", "outputs", "intermediates")
            if not len(operator.mutatingVariableInputs or ()):
                operator.mutatingVariableInputs = None


def _name_weights(file: Any, graph: Any) -> None:
    """Leaves names to inputs, outputs and weights: the last one of each, without the model's.

    The converter joins the names of all operations that it made one of. Results of operations
    need none.
    """
    public = {*graph.inputs, *graph.outputs}
    seen: Counter[bytes] = Counter()
    for position, tensor in enumerate(graph.tensors):
        if position not in public and file.buffers[tensor.buffer].data is None:
            tensor.name = None
            continue
        short = (tensor.name or b"").rpartition(b";")[2]
        if position not in public:
            short = short.partition(b"/")[2] or short
        seen[short] += 1
        number = b"" if seen[short] == 1 else b"_%d" % (seen[short] - 1)
        tensor.name = short + number


def _as_arrays(record: Any, *names: str) -> None:
    """Makes arrays of lists, which the file then holds once; removes empty lists."""
    for name in names:
        values = getattr(record, name)
        if values is not None:
            empty = len(values) == 0 and name != "shape"
            setattr(record, name, None if empty else np.asarray(values, np.int32))


def pack(integers: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Packs integers of 2, 4 or 8 bits into bytes, the first one lowest."""
    per_byte = 8 // bits
    flat = integers.reshape(-1).astype(np.uint8) & np.uint8(2**bits - 1)
    flat = np.append(flat, np.zeros(-len(flat) % per_byte, np.uint8)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(flat << shifts, axis=1).astype(np.uint8)


def _operator(file: Any, kind: int, version: int, source: int, target: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    operator = schema.OperatorT()
    operator.opcodeIndex = _code(file, kind, version)
    operator.inputs, operator.outputs = [source], [target]
    if kind == schema.BuiltinOperator.DENSIFY:
        # A DEQUANTIZE has no options, and LiteRT reads it without their empty table.
        operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
        operator.builtinOptions = schema.DensifyOptionsT()
    return operator


def _code(file: Any, kind: int, version: int) -> int:
    """Returns the position of an operator's code in the file; adds it if it is missing."""
    from ai_edge_litert import schema_py_generated as schema

    for position, code in enumerate(file.operatorCodes):
        if (code.builtinCode, code.version) == (kind, version):
            return position
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = version
    file.operatorCodes.append(code)
    return len(file.operatorCodes) - 1
