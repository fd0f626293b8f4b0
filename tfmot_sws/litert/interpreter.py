"""Runs .tflite files in LiteRT's interpreter, on the inputs of the Keras model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.arguments import check_integer
from tfmot_sws.litert.converter import as_taken, input_structure
from tfmot_sws.litert.frugal_file import TfliteFile, tflite_bytes
from tfmot_sws.litert.model_inputs import cast_input, make_up
from tfmot_sws.models.examples import check_examples

# What free axes of made-up inputs are tried with: images need many pixels, tables of positions
# allow few tokens.
_SIZES = (64, 256, 8, 1)


def predict_tflite(
    tflite: TfliteFile, inputs: Any, batch_size: int = 256
) -> NDArray | list[NDArray]:
    """Runs a .tflite file in the LiteRT interpreter, with its default settings.

    Args:
        tflite: a .tflite file, as a path or as its bytes.
        inputs: an array, alone or in a list; for a file with several inputs a dict of arrays
            by the names of the inputs, because a file does not keep their order. Examples lie
            along the first axis.
        batch_size: examples a call, >= 1; a file with a fixed batch uses its own.

    Returns:
        As `model.predict`: an array, or for several outputs a list of arrays, in the order of
        the Keras model's flattened outputs.

    Raises:
        OSError: the path cannot be read.
        ValueError: `tflite` is no .tflite file, or the inputs do not fit those of the file.

    Example:
        >>> from tfmot_sws.litert.export import convert_to_tflite
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> predict_tflite(convert_to_tflite(model), np.zeros((2, 4))).shape
        (2, 3)
    """
    outputs = run_tflite(tflite_bytes(tflite), inputs, batch_size)
    return outputs[0] if len(outputs) == 1 else outputs


def run_tflite(tflite: bytes, inputs: Any, batch_size: int = 256) -> list[NDArray]:
    """As `predict_tflite`, but gives a list of a single output, too."""
    check_integer("batch_size", batch_size, 1)
    check_examples("inputs", inputs)
    interpreter, runner, names, batch = _open(tflite)
    details = runner.get_input_details()
    arrays = {
        name: cast_input(array, details[name]["dtype"], name)
        for name, array in arrays_by_name(inputs, names).items()
    }
    _check_fit(arrays, details)
    total = len(next(iter(arrays.values())))
    step = batch or batch_size
    parts = []
    for start in range(0, total, step):
        feed = {name: _slice(array, start, step, batch) for name, array in arrays.items()}
        outputs = runner(**feed)
        # The LSTM of tf_keras becomes LiteRT's, which keeps its state between two calls.
        interpreter.reset_all_variables()
        # The last batch is padded to a fixed batch's size; this removes the padding.
        parts.append([outputs[name][: total - start] for name in output_order(outputs)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _check_fit(arrays: dict[str, NDArray], details: dict[str, Any]) -> None:
    """Raises `ValueError` if a shape or dtype is not what the file takes."""
    for name, array in arrays.items():
        dtype, shape = np.dtype(details[name]["dtype"]), details[name]["shape_signature"][1:]
        fits = array.ndim == len(shape) + 1 and all(
            wanted in (-1, size) for size, wanted in zip(array.shape[1:], shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            raise ValueError(
                f"Input '{name}' is {array.dtype} of shape {array.shape}; the file takes "
                f"{dtype} of shape {('N', *map(int, shape))}, -1 standing for any number."
            )


def make_up_inputs(tflite: bytes, model: keras.Model) -> Any:
    """Makes a few random inputs in the structure of the model's inputs.

    Free axes get the first size with which the model computes numbers.
    """
    for size in _SIZES:
        inputs = _made_up(tflite, model, size)
        if _takes(model, inputs):
            return inputs
    return _made_up(tflite, model, _SIZES[0])


def _takes(model: keras.Model, inputs: Any) -> bool:
    """Whether a model computes numbers from inputs of this size."""
    first = as_taken(keras.tree.map_structure(lambda array: array[:1], inputs), model)
    try:
        if isinstance(model, keras.Model):
            # TensorFlow's convolution on a CPU returns an image that is too small as it is.
            spec = keras.tree.map_structure(
                lambda array: keras.KerasTensor(array.shape, str(array.dtype)), first
            )
            model.compute_output_spec(spec)
        outputs = keras.tree.flatten(model(first, training=False))
    # Layers may raise any exception at a size that they do not take.
    except Exception:
        return False
    values = [np.asarray(ops.convert_to_numpy(output)) for output in outputs]
    return all(v.size and (v.dtype.kind != "f" or np.isfinite(v).all()) for v in values)


def _made_up(tflite: bytes, model: keras.Model, size: int) -> Any:
    _, runner, names, _ = _open(tflite)
    details = runner.get_input_details()
    inputs = getattr(model, "inputs", None)
    if not inputs or len(names) == 1:
        return make_up(details, names[:1], model, size)[0]
    made = make_up(details, [tensor.name for tensor in inputs], model, size)
    return keras.tree.pack_sequence_as(input_structure(model), made)


def by_input_name(inputs: Any, model: keras.Model) -> Any:
    """Returns the inputs of a model that has several as a dict by name; others unchanged."""
    tensors = getattr(model, "inputs", None) or []
    leaves = keras.tree.flatten(inputs)
    if len(tensors) < 2 or len(leaves) != len(tensors):
        return inputs
    return {tensor.name: leaf for tensor, leaf in zip(tensors, leaves, strict=True)}


def arrays_by_name(inputs: Any, names: list[str]) -> dict[str, NDArray]:
    """Maps the names of a file's inputs to arrays.

    Raises:
        ValueError: the number of arrays is wrong, or there are several without names.
    """
    if isinstance(inputs, dict):
        missing = sorted(set(names) - set(inputs))
        if missing:
            raise ValueError(f"The file has inputs {names}; received none for {missing}.")
        return {name: np.asarray(inputs[name]) for name in names}
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(inputs)]
    if len(leaves) != len(names):
        raise ValueError(f"The file has inputs {names}; received {len(leaves)} arrays.")
    if len(names) > 1:
        raise ValueError(
            "A .tflite file keeps the names of its inputs, and not their order: pass a dict "
            f"with keys {names}; received {type(inputs).__name__}."
        )
    return {names[0]: leaves[0]}


def output_order(outputs: dict[str, Any]) -> list[str]:
    """Sorts names of outputs into the order of Keras: by number output_0, ..., or by name."""
    return sorted(
        outputs, key=lambda name: (len(name), name) if "output_" in name else (0, name)
    )


def _open(tflite: bytes) -> tuple[Any, Any, list[str], int | None]:
    """Opens a file.

    Returns:
        The interpreter, its signature runner, the sorted names of the inputs, and the size
        of the batch if that is fixed.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite)
    runner = interpreter.get_signature_runner()
    details = runner.get_input_details()
    first = next(iter(details.values()))["shape_signature"]
    batch = int(first[0]) if len(first) and first[0] > 0 else None
    return interpreter, runner, sorted(details), batch


def _slice(array: NDArray, start: int, step: int, fixed: int | None) -> NDArray:
    part = array[start : start + step]
    short = step - len(part) if fixed else 0
    return np.concatenate([part, np.repeat(part[-1:], short, axis=0)]) if short else part
