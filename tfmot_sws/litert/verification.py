"""Compares the outputs of a .tflite file with those of its Keras model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from rich.table import Table

from tfmot_sws.gzip_size import gzip_size
from tfmot_sws.litert import tflm
from tfmot_sws.litert.converter import ExportError, as_taken
from tfmot_sws.litert.file import TfliteTensor, stored_tensors
from tfmot_sws.litert.frugal_file import TfliteFile, tflite_bytes
from tfmot_sws.litert.interpreter import by_input_name, make_up_inputs, run_tflite
from tfmot_sws.litert.report import TfliteReport
from tfmot_sws.models.examples import check_examples
from tfmot_sws.models.libraries import check_model
from tfmot_sws.rendering import as_html, as_text

_BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Verification:
    """A .tflite file compared with the Keras model it was made from.

    Args:
        difference: max |LiteRT - Keras| / max(1, max |Keras|) over all outputs. One entry
            decides it: in a softmax, one example near a boundary.
        relative_error: root mean square of LiteRT - Keras, divided by that of the deviations of
            Keras' outputs from the means of their channels (the last axis); the greatest of
            all outputs. 0 means equal outputs; a file that computes something unrelated has
            about 1 or more. If inputs are made up, or no output deviates from its mean, the
            divisor is the root mean square of Keras' outputs themselves.
        agreement: share of the predictions, 0 to 1, where the predicted class is the same,
            that is, the index of the greatest entry along the last axis. `None` if no
            output has two or more classes.
        tensors: the weights as the file stores them.
        raw_bytes: size of the file.
        gzip_bytes: size of the file under gzip, level 9.
    """

    difference: float
    relative_error: float
    agreement: float | None
    tensors: tuple[TfliteTensor, ...]
    raw_bytes: int
    gzip_bytes: int

    @property
    def comparison(self) -> str:
        """How far the outputs of the file are from those of the model, in words."""
        classes = (
            "" if self.agreement is None else f", {self.agreement:.1%} of the classes the same"
        )
        return (
            f"error {self.relative_error:.1e} of the signal, greatest difference "
            f"{self.difference:.1e} of the range{classes}"
        )

    def table(self) -> Table:
        """Returns the weights in the file and the comparison as a rich table."""
        report = TfliteReport(self.tensors, self.raw_bytes, self.gzip_bytes)
        return report.table(f"; {self.comparison}")

    def __repr__(self) -> str:
        """One line; `print` shows the table."""
        sizes = f"{self.raw_bytes:,} bytes, {self.gzip_bytes:,} under gzip"
        return f"Verification({sizes}; {self.comparison})"

    def __str__(self) -> str:
        return as_text(self.table())

    def _repr_html_(self) -> str:
        """The table, where it is the last expression of a notebook's cell."""
        return as_html(self.table())


def verify_tflite(tflite: TfliteFile, model: keras.Model, data: Any = None) -> Verification:
    """Runs a .tflite file and its Keras model on the same inputs, and reads the file.

    Call it with real data to measure how much accuracy a format costs. `export` makes the
    same comparison before it writes.

    Args:
        tflite: a .tflite file, as a path or as its bytes. A file for TensorFlow Lite Micro
            runs in the interpreter of `tflite-micro`.
        model: the model it was made from, or the model that it replaces.
        data: inputs as for `model.predict`: an array, or a list or dict of arrays. `None`
            takes a few random inputs, and zeros for integer inputs.

    Returns:
        The differences, the agreement, the stored weights, and the sizes. Entries
        that are infinite or NaN in both outputs count as equal.

    Raises:
        ExportError: the model's own outputs have no finite entry for these inputs.
        OSError: the path cannot be read.
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
    tflite = tflite_bytes(tflite)
    tensors = stored_tensors(tflite)
    predict: Callable[[bytes, Any], list[NDArray]]
    predict = tflm.predict if tflm.is_tflm(tflite) else run_tflite
    inputs = make_up_inputs(tflite, model) if data is None else data
    expected = predict_keras(model, inputs)
    _check_finite(expected, model.name, made_up=data is None)
    actual = predict(tflite, by_input_name(inputs, model))
    return Verification(
        difference=greatest_difference(actual, expected),
        relative_error=relative_error(actual, expected, centred=data is not None),
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
        outputs = keras.tree.flatten(model(as_taken(part, model), training=False))
        parts.append([ops.convert_to_numpy(output) for output in outputs])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def greatest_difference(actual: list[NDArray], expected: list[NDArray]) -> float:
    """Computes max |difference| / max(1, max |expected|) over all outputs, NaN if any is."""
    pairs = _finite_pairs(actual, expected)
    differences = [
        np.max(np.abs(a - e), initial=0.0) / max(1.0, float(np.max(np.abs(e), initial=0.0)))
        for a, e in pairs
    ]
    return float(np.max(differences))


def relative_error(actual: list[NDArray], expected: list[NDArray], centred: bool) -> float:
    """Computes the root mean square of the error as a share of that of the signal.

    Args:
        actual: outputs of the file.
        expected: outputs of the model.
        centred: whether the signal is how outputs deviate from the means of their channels.
            Otherwise it is the outputs themselves.

    Returns:
        The greatest share of all outputs; NaN if any is.
    """
    pairs = zip(_finite_pairs(actual, expected), expected, strict=True)
    return float(np.max([_error(a, e, whole, centred) for (a, e), whole in pairs]))


def _error(actual: NDArray, expected: NDArray, whole: NDArray, centred: bool) -> float:
    size = max(expected.size, 1)
    power = float(np.sum(expected**2)) / size
    signal = _deviation_power(whole) if centred else power
    # Rounding alone makes equal outputs deviate by a millionth.
    signal = signal if signal > 1e-12 * power else power
    return math.sqrt(float(np.sum((actual - expected) ** 2)) / size / (signal or 1.0))


def _deviation_power(outputs: NDArray) -> float:
    """Computes the mean square of what remains when each channel's mean is subtracted."""
    rows = outputs.reshape(-1, outputs.shape[-1] if outputs.ndim > 1 else 1).astype(float)
    masked = np.ma.masked_invalid(rows)
    deviations = masked - masked.mean(axis=0)
    return float(np.sum(deviations.compressed() ** 2)) / max(masked.count(), 1)


def _finite_pairs(
    actual: list[NDArray], expected: list[NDArray]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Leaves out the entries that are infinite or NaN in the same way in both outputs."""
    pairs = []
    for a, e in zip(actual, expected, strict=True):
        same = ~np.isfinite(e) & ((a == e) | (np.isnan(a) & np.isnan(e)))
        # Where the outputs are not finite in another way, no distance says how far apart.
        a64, e64 = a[~same].astype(float), e[~same].astype(float)
        pairs.append((a64, np.where(np.isfinite(e64), e64, np.nan)))
    return pairs


def _check_finite(outputs: list[NDArray], name: str, made_up: bool) -> None:
    if all(np.isfinite(output).any() for output in outputs):
        return
    whose = "the made-up inputs of" if made_up else "the sample for"
    raise ExportError(
        f"The model '{name}' itself computes nothing but NaN or infinity for {whose} the "
        "check, so nothing can be compared. Pass typical inputs: sample=x_test[:64]."
    )


def _agreement(actual: list[NDArray], expected: list[NDArray]) -> float | None:
    shares = [
        np.mean(np.argmax(a, -1) == np.argmax(e, -1))
        for a, e in zip(actual, expected, strict=True)
        if e.ndim > 1 and e.shape[-1] > 1
    ]
    return float(np.mean(shares)) if shares else None
