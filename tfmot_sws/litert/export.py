"""Exports models to LiteRT (TFLite), and checks the outputs of each file."""

from __future__ import annotations

from typing import Any, Final

import keras

from tfmot_sws.arguments import check_choice, check_numbers
from tfmot_sws.litert import formats as tflite_formats
from tfmot_sws.litert.converter import ExportError, with_inputs_of
from tfmot_sws.litert.formats import Job, first_examples
from tfmot_sws.litert.interpreter import predict_tflite
from tfmot_sws.litert.model_inputs import as_inputs
from tfmot_sws.litert.process import make_on_tensorflow
from tfmot_sws.litert.verification import Verification, verify_tflite
from tfmot_sws.models.batch_norm import warn_of_lost_clusters
from tfmot_sws.models.examples import check_examples
from tfmot_sws.models.libraries import check_model
from tfmot_sws.models.rebuild import computes_in_float32, copy_float32
from tfmot_sws.models.wrapped import check_plain
from tfmot_sws.whole_file import PathOrFile, check_writable, write_whole

__all__ = [
    "FORMATS",
    "ExportError",
    "convert_to_tflite",
    "export",
    "predict_tflite",
    "verify_tflite",
]

FORMATS: Final = tuple(tflite_formats.FORMATS)


def convert_to_tflite(
    model: keras.Model,
    weights: str = "float32",
    *,
    representative_data: Any = None,
    sample: Any = None,
    tolerance: float | None = None,
) -> bytes:
    """Converts a stripped model to LiteRT and checks that the outputs are the same.

    The function prepares models that the converter would turn down: it rebuilds models in
    half precision in float32, and sets the batch to 1 where LiteRT needs a fixed batch, as
    for recurrent models. All other models keep a free batch. If Keras runs on JAX or torch,
    another process with Keras on TensorFlow runs the converter; see
    `tfmot_sws.litert.process`.

    Formats:

    - "float32": every weight as it is; as large as the dense model until it is zipped.
    - "float16": half the size.
    - "int8_codebook": a quarter of the size, computed with as float; values move to a grid.
    - "int4_codebook": an eighth of the size, for codebooks k * step with |k| <= 7.
    - "sparse": only the non-zero entries of tensors with many zeros; exact.
    - "smallest": for each tensor the smallest of int8, int4, int2 and sparse int8.
    - "int8": integer arithmetic, a quarter of the size; needs `representative_data`.
    - "tflm": look-up tables for TensorFlow Lite Micro only; exact. Needs tflite-micro.

    `tfmot_sws.litert.formats.FORMATS` holds their descriptions and tolerances.

    Args:
        model: a plain built model of Keras 3 or tf_keras, called at least once if it is
            subclassed.
        weights: how weights are stored, one of `FORMATS`.
        representative_data: typical inputs, from which "int8" learns the range of each
            activation: arrays as for `model.predict`, or a dataset or other iterable of
            batches (of inputs, or of tuples of inputs and targets). 256 examples are read.
        sample: inputs for the check, shaped as for `model.predict`; a few examples
            suffice. `None`: the representative data, or random inputs.
        tolerance: how much outputs may differ, > 0; `float("inf")` writes any file that
            runs. It limits `Verification.difference` for "float32", "sparse",
            "int4_codebook" and "tflm" (1e-3 by default), and `Verification.relative_error`
            for "float16" (0.05), "int8_codebook", "smallest" and "int8" (0.32, that is, an
            error with a tenth of the signal's power).

    Returns:
        The bytes of a .tflite file.

    Raises:
        TypeError: the model, or one that it holds, is still wrapped.
        ValueError: an unknown `weights`, "int8" without `representative_data`, a
            `tolerance` that is not above 0, or inputs that the model does not take.
        ExportError: conversion failed, or outputs of LiteRT and Keras differ by more than
            the tolerance.
        ImportError: the format's package is not installed.

    Warns:
        SoftWeightSharingWarning: a BatchNorm follows clustered kernels, whose clusters the
            format loses (call `fold_batch_norm` before sharing); or the format does not make
            some tensors smaller.

    Example:
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256)])
        >>> sizes = [len(convert_to_tflite(model, w)) for w in ("float32", "float16")]
        >>> sizes[1] < 0.6 * sizes[0]
        True
    """
    return _convert_and_verify(model, weights, representative_data, sample, tolerance)[0]


def export(
    model: keras.Model,
    path: PathOrFile,
    weights: str = "float32",
    *,
    representative_data: Any = None,
    sample: Any = None,
    tolerance: float | None = None,
) -> Verification:
    """Writes a stripped model as a .tflite file, whole or not at all.

    Args:
        model: as for `convert_to_tflite`.
        path: the file to write, or a file opened in binary mode. An old file is replaced
            after the new one is checked.
        weights: as for `convert_to_tflite`.
        representative_data: as for `convert_to_tflite`.
        sample: as for `convert_to_tflite`.
        tolerance: as for `convert_to_tflite`.

    Returns:
        The differences between the outputs, the weights in the file, and its sizes.

    Raises:
        OSError: the file cannot be written.
        Exception: any error of `convert_to_tflite`; then nothing is written.
    """
    check_writable(path)
    tflite, verification = _convert_and_verify(
        model, weights, representative_data, sample, tolerance
    )
    write_whole(path, [tflite])
    return verification


def _convert_and_verify(
    model: keras.Model,
    weights: str,
    representative_data: Any,
    sample: Any,
    tolerance: float | None,
) -> tuple[bytes, Verification]:
    _check(model, weights, tolerance)
    form = tflite_formats.FORMATS[weights]
    if representative_data is not None:
        representative_data = first_examples(representative_data)
        check_examples("representative_data", representative_data)
        representative_data = as_inputs(representative_data, model, "representative_data")
    if sample is not None:
        check_examples("sample", sample)
        sample = as_inputs(sample, model, "sample")
    sample = representative_data if sample is None else sample
    form.check(Job(model, representative_data, sample))
    # Elsewhere the process on TensorFlow gives this warning.
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if on_tensorflow and not form.keeps_clusters_behind_batch_norm:
        warn_of_lost_clusters(model, weights)
    if not computes_in_float32(model):
        model = copy_float32(model)
    job = Job(with_inputs_of(model, sample), representative_data, sample)
    tflite = form.make(job) if on_tensorflow else make_on_tensorflow(job, weights)
    try:
        verification = verify_tflite(tflite, model, sample)
    except RuntimeError as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(
            f"LiteRT cannot run the '{weights}' file of '{model.name}': {error} Nothing was "
            "written. An activation that is always zero, of a layer without non-zero "
            "weights, can be the reason: take another format."
        ) from error
    limit = form.tolerance if tolerance is None else tolerance
    if not getattr(verification, form.measure) <= limit:
        raise ExportError(_refusal(model, weights, verification, limit))
    return tflite, verification


def _refusal(model: keras.Model, weights: str, verification: Verification, limit: float) -> str:
    """Says what was measured, what is expected, and what helps."""
    form = tflite_formats.FORMATS[weights]
    agreement = verification.agreement
    classes = "" if agreement is None else f", and {agreement:.1%} of the classes are the same"
    advice = f"{form.advice}; or " if form.advice else ""
    return (
        f"Outputs of the '{weights}' file differ from those of '{model.name}': the error is "
        f"{verification.relative_error:.1e} of the signal, the greatest difference "
        f"{verification.difference:.1e} of the range{classes}. At most {limit:.0e} is "
        f"expected as '{form.measure}'. Nothing was written. If the model computes at random "
        f"in inference, make it deterministic; {advice}allow more with tolerance=."
    )


def _check(model: keras.Model, weights: str, tolerance: float | None) -> None:
    check_model(model)
    check_plain(model)
    check_choice("weights", weights, FORMATS)
    if tolerance is not None:
        check_numbers(tolerance=tolerance)
        if not tolerance > 0:
            raise ValueError(
                f"tolerance must be a number above 0; received {tolerance!r}. Leave it out for "
                "the format's own."
            )
