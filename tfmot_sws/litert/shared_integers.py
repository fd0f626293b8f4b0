"""Lets the channels of a clustered kernel share integers in a file of int8 arithmetic.

LiteRT's converter gives each channel the step that makes its greatest weight 127. The few
values of a kernel become other integers in each channel then, and a zipped file is larger than
it need be. A kernel that lies on a grid has integers and steps of its own, the same integers in
all channels. They hold its values exactly, so they take the place of the converter's.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.litert.file import constants, operator_names, parse, unparse
from tfmot_sws.litert.integer_weights import leave_out
from tfmot_sws.litert.integers import Integers, find_integers

# Where an operator that multiplies by a kernel has its kernel, its bias and its data.
_PLACES: Final = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 0),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 2),
}
# How the schema says that an operator has no such input.
_NONE: Final = -1
# The converter rounds a weight to half a step at most, and computes in float32.
_HALF_A_STEP: Final = 0.501
# A channel whose step in the file is greater than its own by more, so that its bias fits 32
# bits, stays as it is. So does one whose products would be too many units of the output: the
# library that LiteRT computes with takes factors below 256.
_WIDER: Final = 1.01
_LARGEST_FACTOR: Final = 128.0


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A kernel, and the biases that are added to its products, as indices of tensors.

    largest_step: that the kernel may have.
    """

    kernel: int
    biases: set[int]
    largest_step: float


def share_integers(tflite: bytes, exact: bytes) -> bytes:
    """Gives the kernels of an int8 file the integers and steps that they lie on.

    Args:
        tflite: the bytes of an int8 file, as the converter made it.
        exact: the bytes of the same model's float32 file.

    Returns:
        The bytes of a file whose kernels are those of `exact` where these lie on a grid
        (`find_integers`); `tflite` itself where none does.
    """
    file = parse(tflite)
    floats = defaultdict(list)
    for tensor, values in constants(parse(exact)):
        if values.dtype == np.float32:
            floats[tuple(tensor.shape)].append(values.reshape(tensor.shape))
    changed = False
    for graph in file.subgraphs:
        for layer in _layers(file, graph):
            kernel = graph.tensors[layer.kernel]
            values = _dequantized(file, kernel)
            found = _matching(values, kernel, floats[tuple(kernel.shape)])
            if found is not None:
                biases = [graph.tensors[index] for index in layer.biases]
                _replace(file, kernel, biases, found, layer.largest_step)
                changed = True
    if not changed:
        return tflite
    _drop_unused(file)
    leave_out(file)
    return unparse(file)


def _layers(file: Any, graph: Any) -> list[_Layer]:
    """Finds the int8 kernels that operators only multiply by, with biases of their own."""
    names = operator_names(file)
    uses = Counter(index for operator in graph.operators for index in operator.inputs)
    found: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for operator in graph.operators:
        places = _PLACES.get(names[operator.opcodeIndex])
        if places is not None:
            kernel, bias, data = (_input(operator, place) for place in places)
            before, after = (graph.tensors[i] for i in (data, operator.outputs[0]))
            found[kernel].append((bias, _LARGEST_FACTOR * _step(after) / _step(before)))
    layers = []
    for kernel, of_operators in found.items():
        biases = Counter(bias for bias, _ in of_operators if bias != _NONE)
        if (
            uses[kernel] == len(of_operators)
            and _is_constant(file, graph.tensors[kernel], "INT8")
            and all(uses[bias] == times for bias, times in biases.items())
            and all(_is_constant(file, graph.tensors[bias], "INT32") for bias in biases)
        ):
            largest = min(step for _, step in of_operators)
            layers.append(_Layer(kernel, set(biases), largest))
    return layers


def _step(tensor: Any) -> float:
    """The step of data; of float data, which no int8 kernel meets, infinity."""
    scale = getattr(tensor.quantization, "scale", None)
    return math.inf if scale is None else float(scale[0])


def _input(operator: Any, place: int) -> int:
    return int(operator.inputs[place]) if place < len(operator.inputs) else _NONE


def _is_constant(file: Any, tensor: Any, kind: str) -> bool:
    """Whether a tensor is one of quantized integers of this type, stored one by one."""
    from ai_edge_litert import schema_py_generated as schema

    return (
        tensor.type == getattr(schema.TensorType, kind)
        and tensor.sparsity is None
        and file.buffers[tensor.buffer].data is not None
        and getattr(tensor.quantization, "scale", None) is not None
    )


def _stored(file: Any, tensor: Any, dtype: str) -> NDArray[Any]:
    content = bytes(file.buffers[tensor.buffer].data)
    return np.frombuffer(content, dtype).reshape(tensor.shape)


def _dequantized(file: Any, kernel: Any) -> NDArray[np.float64]:
    stored = _stored(file, kernel, "int8")
    return stored * _along_channels(kernel, kernel.quantization.scale)


def _along_channels(kernel: Any, values: NDArray) -> NDArray[np.float64]:
    """One number a channel, in a shape that multiplies the kernel."""
    shape = [1] * len(kernel.shape)
    shape[kernel.quantization.quantizedDimension] = -1
    return np.asarray(values, np.float64).reshape(shape)


def _matching(
    values: NDArray[np.float64], kernel: Any, floats: list[NDArray[np.float32]]
) -> Integers | None:
    """The integers of the float kernel that was rounded to these values; `None` if none are."""
    limits = _HALF_A_STEP * _along_channels(kernel, kernel.quantization.scale)
    for candidate in floats:
        if np.all(np.abs(candidate - values) <= limits):
            found = find_integers(candidate)
            if found is not None and _fits(found, kernel):
                return found
    return None


def _fits(found: Integers, kernel: Any) -> bool:
    """Whether the file can hold a step for each channel that has one."""
    parameters = kernel.quantization
    has_channels = len(parameters.scale) > 1
    return found.axis is None or (has_channels and found.axis == parameters.quantizedDimension)


def _replace(
    file: Any, kernel: Any, biases: list[Any], found: Integers, largest_step: float
) -> None:
    """Writes other integers and steps, and biases in the unit that follows from them."""
    parameters = kernel.quantization
    old = np.asarray(parameters.scale, np.float32)
    others = [i for i in range(len(kernel.shape)) if i != parameters.quantizedDimension]
    # A channel of zeros has no step of its own, and its bias needs a fine one.
    stays = ~np.any(found.integers, axis=tuple(others) if old.size > 1 else None)
    stays = stays | (old > _WIDER * found.steps) | (found.steps > largest_step)
    steps = np.where(stays, old, found.steps).astype(np.float32)
    before = _stored(file, kernel, "int8")
    kept = _along_channels(kernel, stays) > 0
    _set_data(file, kernel, np.where(kept, before, found.integers))
    parameters.scale = steps
    finer = old.astype(np.float64) / steps
    for bias in biases:
        values = _stored(file, bias, "int32")
        _set_data(file, bias, np.rint(values * finer).astype(np.int32))
        scale = np.asarray(bias.quantization.scale, np.float64)
        bias.quantization.scale = (scale / finer).astype(np.float32)


def _drop_unused(file: Any) -> None:
    """Empties the buffers that nothing refers to any more."""
    used = {tensor.buffer for graph in file.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in file.metadata or ()}
    for position, buffer in enumerate(file.buffers):
        if position not in used:
            buffer.data = None


def _set_data(file: Any, tensor: Any, values: NDArray) -> None:
    """Gives a tensor a buffer of its own, for the old one may be that of others too."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    file.buffers.append(buffer)
    tensor.buffer = len(file.buffers) - 1
