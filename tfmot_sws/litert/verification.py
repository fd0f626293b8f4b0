"""Compares the outputs of a .tflite file with those of its Keras model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.gzip_size import gzip_size
from tfmot_sws.litert import tflm
from tfmot_sws.litert.file import TfliteTensor, stored_tensors
from tfmot_sws.litert.interpreter import by_input_name, make_up_inputs, predict_tflite
from tfmot_sws.models.examples import check_examples
from tfmot_sws.models.libraries import check_model

_BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Verification:
    """A .tflite file compared with the Keras model it was made from.

    Args:
        difference: max |LiteRT - Keras| / max(1, max |Keras|) over all outputs.
        agreement: share of the predictions, 0 to 1, where the predicted class is the same,
            that is, the index of the greatest entry along the last axis. `None` if no
            output has two or more classes.
        tensors: the weights as the file stores them.
        raw_bytes: size of the file.
        gzip_bytes: size of the file under gzip, level 9.
    """

    difference: float
    agreement: float | None
    tensors: tuple[TfliteTensor, ...]
    raw_bytes: int
    gzip_bytes: int


def verify_tflite(tflite: bytes, model: keras.Model, data: Any = None) -> Verification:
    """Runs a .tflite file and its Keras model on the same inputs, and reads the file.

    Call it with real data to measure how much accuracy a format costs. `export` makes the
    same comparison before it writes.

    Args:
        tflite: the bytes of a .tflite file. A file for TensorFlow Lite Micro runs in the
            interpreter of `tflite-micro`.
        model: the model it was made from, or the model that it replaces.
        data: inputs as for `model.predict`: an array, or a list or dict of arrays. `None`
            takes a few random inputs, and zeros for integer inputs.

    Returns:
        The difference, the agreement, the stored weights, and the sizes.

    Raises:
        ValueError: `tflite` is no .tflite file, or the inputs do not fit it.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> from tfmot_sws.litert.export import convert_to_tflite
        >>> verification = verify_tflite(convert_to_tflite(model), model)
        >>> verification.agreement, [t.shape for t in verification.tensors]
        (1.0, [(3, 4)])
    """
    check_model(model)
    if data is not None:
        check_examples("data", data, model)
    tensors = stored_tensors(tflite)
    predict: Callable[[bytes, Any], list[NDArray]]
    predict = tflm.predict if tflm.is_tflm(tflite) else predict_tflite
    inputs = make_up_inputs(tflite, model) if data is None else data
    expected = predict_keras(model, inputs)
    actual = predict(tflite, by_input_name(inputs, model))
    return Verification(
        difference=greatest_difference(actual, expected),
        agreement=_agreement(actual, expected),
        tensors=tensors,
        raw_bytes=len(tflite),
        gzip_bytes=gzip_size(tflite),
    )


def predict_keras(model: keras.Model, inputs: Any) -> list[NDArray]:
    """Computes the model's flattened outputs in batches."""
    # `predict` would trace a function for each model, and warn about it after a few models.
    tensors = getattr(model, "inputs", None)
    step = (tensors[0].shape[0] if tensors else None) or _BATCH_SIZE
    parts = []
    for start in range(0, len(keras.tree.flatten(inputs)[0]), step):
        stop = start + step
        part = keras.tree.map_structure(lambda a, i=start, j=stop: np.asarray(a)[i:j], inputs)
        outputs = keras.tree.flatten(model(part, training=False))
        parts.append([ops.convert_to_numpy(output) for output in outputs])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def greatest_difference(actual: list[NDArray], expected: list[NDArray]) -> float:
    """Computes max |difference| / max(1, max |expected|) over all outputs, NaN if any is."""
    differences = [
        np.max(np.abs(a.astype(np.float64) - e)) / max(1.0, float(np.max(np.abs(e))))
        for a, e in zip(actual, expected, strict=True)
    ]
    return float(np.max(differences))


def _agreement(actual: list[NDArray], expected: list[NDArray]) -> float | None:
    shares = [
        np.mean(np.argmax(a, -1) == np.argmax(e, -1))
        for a, e in zip(actual, expected, strict=True)
        if e.ndim > 1 and e.shape[-1] > 1
    ]
    return float(np.mean(shares)) if shares else None
