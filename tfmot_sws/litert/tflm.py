"""Compresses files for TensorFlow Lite Micro, with the package `tflite-micro`.

A tensor of V distinct values is stored as a look-up table of these values and an index of
ceil(log2 V) bits for each entry. An operator of TensorFlow Lite Micro decodes it when the
model runs. No other runtime has this operator.
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.litert.converter import ExportError, quietly
from tfmot_sws.litert.file import constants, parse
from tfmot_sws.litert.interpreter import arrays_by_name, output_order

_DECODER: Final = b"TFLM_DECODE"
_MAX_VALUES: Final = 128
# For fewer entries, the table and its header take more bytes than the indices save.
_MIN_ENTRIES: Final = 64
_SPARE_ARENA: Final = 1 << 20


def compress(tflite: bytes) -> bytes:
    """Stores clustered tensors of a float32 file as look-up tables and indices.

    Args:
        tflite: the bytes of a .tflite file, its batch fixed.

    Returns:
        The bytes of a file for TensorFlow Lite Micro; outputs stay the same bit for bit.

    Raises:
        ImportError: `tflite-micro` is not installed.
        ExportError: no tensor is clustered, or the package failed.
    """
    compression = package().compression
    tables = _tables(tflite)
    if not tables:
        raise ExportError(
            f"No tensor has {_MAX_VALUES} distinct values or fewer, so there is nothing to put "
            "into look-up tables. Export a model from strip_soft_weight_sharing."
        )
    # The package reads YAML, and every JSON text is YAML.
    settings = compression.parse_yaml(json.dumps({"tensors": tables}))
    with quietly() as printed:
        try:
            return bytes(compression.compress(tflite, settings))
        except Exception as error:
            failure = error
    raise ExportError(f"tflite-micro failed: {failure}\n{''.join(printed)}") from failure


def predict(tflite: bytes, inputs: Any) -> list[NDArray]:
    """Runs a .tflite file in TensorFlow Lite Micro's interpreter, one example at a time.

    Args:
        tflite: the bytes of a .tflite file.
        inputs: as for `predict_tflite`.

    Returns:
        The outputs in the order of the Keras model's flattened outputs.

    Raises:
        ImportError: `tflite-micro` is not installed.
        ExportError: TensorFlow Lite Micro has no operator that the model needs.
    """
    runtime, file = package().runtime, parse(tflite)
    input_positions, output_positions = _positions(file)
    named = arrays_by_name(inputs, sorted(input_positions))
    arrays = {input_positions[name]: array for name, array in named.items()}
    with quietly() as printed:
        try:
            interpreter = runtime.Interpreter.from_bytes(
                tflite, arena_size=16 * len(tflite) + _SPARE_ARENA
            )
            rows = [
                _invoke(
                    interpreter,
                    {position: array[i : i + 1] for position, array in arrays.items()},
                    output_positions,
                )
                for i in range(len(next(iter(arrays.values()))))
            ]
        except RuntimeError as error:
            failure = error
        else:
            return [np.concatenate(column) for column in zip(*rows, strict=True)]
    raise ExportError(
        f"TensorFlow Lite Micro cannot run the model: {failure}\n{''.join(printed)}"
    ) from failure


def is_tflm(tflite: bytes) -> bool:
    """Tells whether a .tflite file holds look-up tables."""
    return _DECODER in tflite


def package() -> Any:
    """Imports `tflite_micro`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import tflite_micro
    except ImportError as error:
        raise ImportError(
            "The format 'tflm' needs the package tflite-micro. Install it with "
            "pip install 'tfmot-sws[tflm]'."
        ) from error
    return tflite_micro


def _tables(tflite: bytes) -> list[dict[str, Any]]:
    """Lists the package's setting of each tensor that a look-up table makes smaller."""
    file = parse(tflite)
    clustered = {}
    for tensor, values in constants(file):
        distinct = np.unique(values).size
        if values.size >= _MIN_ENTRIES and distinct <= min(_MAX_VALUES, values.size // 2):
            clustered[id(tensor)] = max(1, (distinct - 1).bit_length())
    return [
        {
            "subgraph": g,
            "tensor": t,
            "compression": [{"lut": {"index_bitwidth": bits, "per_tensor": None}}],
        }
        for g, graph in enumerate(file.subgraphs)
        for t, tensor in enumerate(graph.tensors)
        if (bits := clustered.get(id(tensor)))
    ]


def _positions(file: Any) -> tuple[dict[str, int], list[int]]:
    """Returns the positions of inputs by name, and of outputs in the order of Keras."""
    graph, signature = file.subgraphs[0], file.signatureDefs[0]
    inputs, outputs = (
        {entry.name.decode(): list(tensors).index(entry.tensorIndex) for entry in entries}
        for entries, tensors in (
            (signature.inputs, graph.inputs),
            (signature.outputs, graph.outputs),
        )
    )
    return inputs, [outputs[name] for name in output_order(outputs)]


def _invoke(interpreter: Any, feed: dict[int, NDArray], outputs: list[int]) -> list[NDArray]:
    for position, array in feed.items():
        interpreter.set_input(array, position)
    interpreter.invoke()
    return [np.array(interpreter.get_output(position)) for position in outputs]
