"""Stores the weights of a float .tflite file as integers, each with a DEQUANTIZE behind it.

LiteRT expands such weights once, when it loads the file, and then computes as with the float
file. That holds for every operator and every axis of channels. The AI Edge Quantizer, which
writes such files too, leaves out embeddings and rounds where each channel has a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.litert.file import constants, parse, unparse
from tfmot_sws.litert.integers import Integers

# Of a float tensor's values, the name, and how to store it; `None` leaves it float32.
Choose = Callable[[str, NDArray[np.float32]], Integers | None]

# What an operator and a tensor more take in the file.
OVERHEAD_BYTES = 256


def store_as_integers(tflite: bytes, choose: Choose, bits: Callable[[Integers], int]) -> bytes:
    """Stores constants of two axes or more as integers.

    Args:
        tflite: the bytes of a float32 .tflite file.
        choose: gives the integers of a tensor, or `None`.
        bits: gives the width in which integers are stored: 2, 4 or 8.

    Returns:
        The bytes of a file that computes with `Integers.values` in place of each tensor.
    """
    file = parse(tflite)
    chosen = {}
    for tensor, values in constants(file):
        if len(tensor.shape) < 2 or values.dtype != np.float32 or tensor.sparsity is not None:
            continue
        found = choose(tensor.name.decode(), values.reshape(tensor.shape))
        if found is not None and _pays(found, bits(found)):
            chosen[tensor.buffer] = _add_buffer(file, found, bits(found)), found, bits(found)
    for graph in file.subgraphs:
        _insert(file, graph, chosen)
    for buffer in chosen:
        file.buffers[buffer].data = None
    _shorten_names(file)
    return unparse(file)


def stored_size(integers: Integers, bits: int) -> int:
    """Counts the bytes that a tensor takes in the file."""
    packed = -(-integers.integers.size * bits // 8)
    # Each step has a zero point, 8 bytes of zeros.
    return packed + integers.steps.size * (4 + 8) + OVERHEAD_BYTES


def _pays(integers: Integers, bits: int) -> bool:
    return stored_size(integers, bits) < 4 * integers.integers.size


def _insert(file: Any, graph: Any, chosen: dict[int, tuple[int, Integers, int]]) -> None:
    """Puts a DEQUANTIZE in front of the graph for each chosen tensor that it has."""
    operators = []
    for position, tensor in enumerate(list(graph.tensors)):
        if tensor.buffer not in chosen:
            continue
        buffer, integers, bits = chosen[tensor.buffer]
        graph.tensors.append(_integer_tensor(tensor, buffer, integers, bits))
        # Tensors without data have the first buffer, which is always empty.
        tensor.buffer, tensor.name = 0, b"float"
        code = _code_of_dequantize(file, integers, bits)
        operators.append(_dequantize(code, len(graph.tensors) - 1, position))
    graph.operators = [*operators, *(graph.operators or [])]


def _shorten_names(file: Any) -> None:
    """Names a tensor after the last of the operations that the converter joined into one.

    The names of all operations, each with its BatchNorm, took more bytes than the biases.
    """
    for graph in file.subgraphs:
        seen: Counter[bytes] = Counter()
        for tensor in graph.tensors:
            short = (tensor.name or b"").rpartition(b";")[2]
            seen[short] += 1
            number = b"" if seen[short] == 1 else b"_%d" % (seen[short] - 1)
            tensor.name = short + number


def _add_buffer(file: Any, integers: Integers, bits: int) -> int:
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = pack(integers.integers, bits)
    file.buffers.append(buffer)
    return len(file.buffers) - 1


def pack(integers: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Packs integers of 2, 4 or 8 bits into bytes, the first one lowest."""
    per_byte = 8 // bits
    flat = integers.reshape(-1).astype(np.uint8) & np.uint8(2**bits - 1)
    flat = np.append(flat, np.zeros(-len(flat) % per_byte, np.uint8)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(flat << shifts, axis=1).astype(np.uint8)


def _integer_tensor(tensor: Any, buffer: int, integers: Integers, bits: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    parameters = schema.QuantizationParametersT()
    parameters.scale = integers.steps
    parameters.zeroPoint = np.zeros(integers.steps.size, np.int64)
    parameters.quantizedDimension = integers.axis or 0
    stored = schema.TensorT()
    stored.name, stored.shape, stored.buffer = tensor.name, tensor.shape, buffer
    stored.type = getattr(schema.TensorType, f"INT{bits}")
    stored.quantization = parameters
    return stored


def _dequantize(code: int, source: int, target: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, [source], [target]
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    return operator


def _code_of_dequantize(file: Any, integers: Integers, bits: int) -> int:
    """Returns the position of the operator's code in the file; adds it if it is missing."""
    from ai_edge_litert import schema_py_generated as schema

    # As LiteRT counts: 2 reads int8, 5 a step a channel, 6 int4, and 7, the next, int2.
    version = {8: 2 if integers.axis is None else 5, 4: 6, 2: 7}[bits]
    kind = schema.BuiltinOperator.DEQUANTIZE
    for position, code in enumerate(file.operatorCodes):
        if (code.builtinCode, code.version) == (kind, version):
            return position
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = version
    file.operatorCodes.append(code)
    return len(file.operatorCodes) - 1
