"""Export to LiteRT (TFLite), with a check that nothing changed on the way."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

FORMATS = ("float32",)
# Kernels of another library sum in another order: float32 outputs agree to about this
# share of their range.
_TOLERANCE = 1e-4
_CHECK_EXAMPLES = 4


class ExportError(RuntimeError):
    """The model could not be exported, or its export does not compute the same."""


def convert_to_tflite(
    model: keras.Model, weights: str = "float32", *, sample: Any = None
) -> bytes:
    """Converts a stripped model to LiteRT and checks that outputs are the same.

    Models that LiteRT converts only with a fixed batch, such as recurrent ones, get a
    batch of 1; all others keep a free batch.

    Args:
        model: a plain built Keras 3 model, called at least once if it is subclassed.
        weights: how weights are stored: "float32".
        sample: inputs for the check, shaped as for `model.predict`; a few examples
            suffice. `None`: random ones (zeros for integer inputs).

    Returns:
        The bytes of a .tflite file.

    Raises:
        TypeError: the model is still wrapped.
        ValueError: an unknown `weights`.
        ExportError: conversion failed, or outputs of LiteRT and Keras differ by more than
            1e-4 of their range.
        RuntimeError: Keras does not run on TensorFlow.
    """
    _check(model, weights)
    tflite = _convert(model)
    difference = verify_tflite(tflite, model, sample)
    if not difference <= _TOLERANCE:
        raise ExportError(
            f"LiteRT's outputs differ from those of '{model.name}' by {difference:.1e} of "
            f"their range; at most {_TOLERANCE:.0e} is expected. Nothing was written. If "
            "the model computes at random in inference, make it deterministic."
        )
    return tflite


def verify_tflite(tflite: bytes, model: keras.Model, sample: Any = None) -> float:
    """Greatest difference between LiteRT's outputs and Keras', over the outputs' range.

    Args:
        tflite: the bytes of a .tflite file.
        model: the model it was made from.
        sample: inputs, shaped as for `model.predict`; `None` makes some up.

    Returns:
        max |difference| / max(1, max |output|), over all outputs.
    """
    if sample is None:
        sample = _make_up_inputs(tflite, model)
    expected = keras.tree.flatten(
        keras.tree.map_structure(ops.convert_to_numpy, model(sample, training=False))
    )
    actual = predict_tflite(tflite, _named(sample, model))
    return max(
        float(np.max(np.abs(a - e)) / max(1.0, float(np.max(np.abs(e)))))
        for a, e in zip(actual, expected, strict=True)
    )


def predict_tflite(tflite: bytes, inputs: Any, batch_size: int = 256) -> list[NDArray]:
    """Runs a .tflite file in the LiteRT interpreter.

    Args:
        tflite: the bytes of a .tflite file.
        inputs: an array, or a list or dict of arrays as the Keras model takes them;
            examples along the first axis.
        batch_size: examples a call, >= 1; a file with a fixed batch uses its own.

    Returns:
        The outputs in the order of the Keras model's flattened outputs.
    """
    runner, names, batch = _open(tflite)
    arrays = _by_name(inputs, names)
    total = len(next(iter(arrays.values())))
    step = batch or batch_size
    parts = []
    for start in range(0, total, step):
        feed = {name: _slice(array, start, step, batch) for name, array in arrays.items()}
        outputs = runner(**feed)
        # A fixed batch is filled up at the end; what was filled in is cut off.
        parts.append([outputs[name][: total - start] for name in _output_order(outputs)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _open(tflite: bytes) -> tuple[Any, list[str], int | None]:
    """A signature runner, its inputs' names, and the batch if that is fixed."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite)
    runner = interpreter.get_signature_runner()
    details = runner.get_input_details()
    first = next(iter(details.values()))["shape_signature"]
    batch = int(first[0]) if len(first) and first[0] > 0 else None
    return runner, sorted(details), batch


def _by_name(inputs: Any, names: list[str]) -> dict[str, NDArray]:
    """Arrays by the name of the input they feed."""
    if isinstance(inputs, dict):
        return {name: np.asarray(inputs[name]) for name in names}
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(inputs)]
    if len(leaves) != len(names):
        raise ValueError(f"The file has inputs {names}; received {len(leaves)} arrays.")
    if len(names) > 1:
        raise ValueError(f"Several inputs are fed by name: pass a dict with keys {names}.")
    return {names[0]: leaves[0]}


def _slice(array: NDArray, start: int, step: int, fixed: int | None) -> NDArray:
    part = array[start : start + step]
    short = step - len(part) if fixed else 0
    return np.concatenate([part, np.repeat(part[-1:], short, axis=0)]) if short else part


def _output_order(outputs: dict[str, NDArray]) -> list[str]:
    """Keras names unnamed outputs output_0, output_1, ...; named ones sort by name."""
    return sorted(
        outputs, key=lambda name: (len(name), name) if "output_" in name else (0, name)
    )


def _make_up_inputs(tflite: bytes, model: keras.Model) -> Any:
    """Random inputs in the structure that the model takes."""
    generator = np.random.default_rng(0)
    runner, names, _ = _open(tflite)
    details = runner.get_input_details()

    def make(name: str) -> NDArray:
        shape = [
            _CHECK_EXAMPLES,
            *(max(int(n), 1) for n in details[name]["shape_signature"][1:]),
        ]
        dtype = details[name]["dtype"]
        if np.issubdtype(dtype, np.floating):
            return generator.standard_normal(shape).astype(dtype)
        return np.zeros(shape, dtype)

    inputs = getattr(model, "inputs", None)
    if not inputs or len(names) == 1:
        return make(names[0])
    return keras.tree.pack_sequence_as(_input_structure(model), [make(t.name) for t in inputs])


def _input_structure(model: keras.Model) -> Any:
    """The model's symbolic inputs as it takes them: a tensor, list or dict."""
    return model.inputs[0] if len(model.inputs) == 1 else model.input


def _named(sample: Any, model: keras.Model) -> Any:
    """A sample for a model of several inputs as a dict by their names."""
    inputs = getattr(model, "inputs", None) or []
    leaves = keras.tree.flatten(sample)
    if len(inputs) < 2 or len(leaves) != len(inputs):
        return sample
    return {tensor.name: leaf for tensor, leaf in zip(inputs, leaves, strict=True)}


def _check(model: keras.Model, weights: str) -> None:
    if hasattr(model, "priors"):
        raise TypeError(
            "convert_to_tflite expects a stripped model; received a wrapped one. Call "
            "strip_soft_weight_sharing(model) first."
        )
    if weights not in FORMATS:
        raise ValueError(f"weights must be one of {FORMATS}; received {weights!r}.")
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "LiteRT export needs Keras on TensorFlow; the backend is "
            f"{keras.backend.backend()!r}. Save the stripped model as .keras, then load "
            "and convert it in a process with KERAS_BACKEND=tensorflow."
        )


def _convert(model: keras.Model) -> bytes:
    try:
        return _run_converter(model)
    except ExportError:
        if not getattr(model, "inputs", None):
            raise
        return _run_converter(_with_batch_of_one(model))


def _run_converter(model: keras.Model) -> bytes:
    import tensorflow as tf

    printed: list[str] = []
    try:
        with _quiet(printed), warnings.catch_warnings():
            # The converter swallows exceptions, a warning made an error among them.
            warnings.simplefilter("ignore")
            return tf.lite.TFLiteConverter.from_keras_model(model).convert()
    except Exception as error:
        raise ExportError(
            f"LiteRT's converter could not convert '{model.name}': {error}\n"
            f"{''.join(printed)[-2000:]}"
        ) from error


def _with_batch_of_one(model: keras.Model) -> keras.Model:
    """The same model behind inputs whose batch is 1."""

    def fix(tensor: Any) -> Any:
        return keras.Input(
            batch_shape=(1, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name
        )

    inputs = keras.tree.map_structure(fix, _input_structure(model))
    return keras.Model(inputs, model(inputs), name=model.name)


@contextlib.contextmanager
def _quiet(printed: list[str]) -> Iterator[None]:
    """Holds back what Python and native code print, and appends it to `printed`."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    held = io.StringIO()
    with tempfile.TemporaryFile() as sink:
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            with contextlib.redirect_stdout(held), contextlib.redirect_stderr(held):
                yield
        finally:
            for target, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, target)
                os.close(saved)
            sink.seek(0)
            printed += [held.getvalue(), sink.read().decode(errors="replace")]
