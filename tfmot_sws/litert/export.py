"""Export to LiteRT (TFLite), with a check that nothing changed on the way."""

from __future__ import annotations

import os
import pathlib
import tempfile
from typing import Any, Final

import keras

from tfmot_sws.litert import formats as tflite_formats
from tfmot_sws.litert.converter import ExportError
from tfmot_sws.litert.formats import Job, first_examples
from tfmot_sws.litert.interpreter import predict_tflite
from tfmot_sws.litert.process import make_on_tensorflow
from tfmot_sws.litert.verification import Verification, verify_tflite
from tfmot_sws.models.batch_norm import warn_of_lost_clusters
from tfmot_sws.models.rebuild import computes_in_float32, copy_float32
from tfmot_sws.models.wrapped import is_wrapped

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
) -> bytes:
    """Converts a stripped model to LiteRT and checks that outputs are the same.

    The converter needs Keras on TensorFlow: under JAX or torch another process builds
    the model again and converts it, and the result is checked against this one's outputs.

    What else the converter needs is done here: models in half precision are rebuilt in
    float32; models that LiteRT takes only with a fixed batch, such as recurrent ones, get
    a batch of 1; all others keep a free batch. Formats:

    - "float32": every weight as it is. As large as the dense model until it is zipped.
    - "float16": half the size. Outputs agree to 1e-2 of their range.
    - "int8_codebook": a quarter of the size. Values move to a grid of 255 steps
      (`place_on_int8_grid`), and are then stored as int8, one scale a tensor, and
      computed with as float: outputs equal those of the float32 file of the moved weights
      exactly, and those of the model to 0.1 of their range, mostly far better. A BatchNorm
      that can be folded is.
    - "sparse": only the non-zero entries of tensors with many zeros; exact. Where the
      file does not become smaller, a warning says so, and the float32 file is returned.
    - "int8": integer arithmetic, a quarter of the size, inputs and outputs float32.
      Outputs agree to 0.1 of their range. Needs `representative_data`.
    - "tflm": look-up tables for TensorFlow Lite Micro only, batch 1; exact. Needs the
      package tflite-micro: `pip install 'tfmot-sws[tflm]'`.

    Args:
        model: a plain built model of Keras 3 or tf_keras, called at least once if it is
            subclassed.
        weights: how weights are stored, one of `FORMATS`.
        representative_data: typical inputs from which "int8" learns the range of each
            activation: arrays as for `model.predict`, or a dataset or other iterable of
            batches, (inputs, targets) among them. 256 examples are read.
        sample: inputs for the check, shaped as for `model.predict`; a few examples
            suffice. `None`: the representative data, or random inputs (zeros where
            integers).

    Returns:
        The bytes of a .tflite file.

    Raises:
        TypeError: the model is still wrapped.
        ValueError: an unknown `weights`, or "int8" without `representative_data`.
        ExportError: conversion failed, or outputs of LiteRT and Keras differ by more than
            the format allows (1e-4 of their range for the exact ones).
        ImportError: the format's package is not installed.

    Warns:
        UserWarning: BatchNorm behind clustered kernels, whose clusters the format loses
            (call `fold_batch_norm` before sharing); "sparse" or "int8_codebook" gain
            nothing for some tensors.

    Example:
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(256)])
        >>> sizes = [len(convert_to_tflite(model, w)) for w in ("float32", "int8_codebook")]
        >>> sizes[1] < 0.3 * sizes[0]
        True
    """
    return _convert_and_verify(model, weights, representative_data, sample)[0]


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    weights: str = "float32",
    *,
    representative_data: Any = None,
    sample: Any = None,
) -> Verification:
    """Writes a stripped model as a .tflite file, whole or not at all.

    Args:
        model: as for `convert_to_tflite`.
        path: the file to write; an old one is replaced once the new one has been checked.
        weights: one of `FORMATS`, see `convert_to_tflite`.
        representative_data: likewise.
        sample: likewise.

    Returns:
        What the check found, and what is in the file.

    Raises:
        OSError: the file cannot be written.
        Exception: whatever `convert_to_tflite` raises; then nothing is written.
    """
    tflite, verification = _convert_and_verify(model, weights, representative_data, sample)
    target = pathlib.Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tfmot-sws-") as folder:
        temporary = pathlib.Path(folder) / target.name
        temporary.write_bytes(tflite)
        os.replace(temporary, target)
    return verification


def _convert_and_verify(
    model: keras.Model, weights: str, representative_data: Any, sample: Any
) -> tuple[bytes, Verification]:
    _check(model, weights)
    form = tflite_formats.FORMATS[weights]
    if not form.keeps_clusters_behind_batch_norm:
        warn_of_lost_clusters(model, weights)
    if not computes_in_float32(model):
        model = copy_float32(model)
    if sample is None and weights == "int8" and representative_data is not None:
        representative_data = sample = first_examples(representative_data)
    job = Job(model, representative_data, sample)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    tflite = form.make(job) if on_tensorflow else make_on_tensorflow(job, weights)
    try:
        verification = verify_tflite(tflite, model, sample)
    except RuntimeError as error:
        raise ExportError(
            f"LiteRT cannot run the '{weights}' file of '{model.name}': {error} Nothing was "
            "written. An activation that is always zero, of a layer without non-zero "
            "weights, can be the reason: take another format."
        ) from error
    if not verification.difference <= form.tolerance:
        raise ExportError(
            f"Outputs of the '{weights}' file differ from those of '{model.name}' by "
            f"{verification.difference:.1e} of their range; at most {form.tolerance:.0e} is "
            "expected. Nothing was written. If the model computes at random in inference, "
            "make it deterministic; if 'int8' is too coarse, pass more representative data "
            "or take 'int8_codebook'."
        )
    return tflite, verification


def _check(model: keras.Model, weights: str) -> None:
    if is_wrapped(model):
        raise TypeError(
            "convert_to_tflite expects a stripped model; received a wrapped one. Call "
            "strip_soft_weight_sharing(model) first."
        )
    if weights not in FORMATS:
        raise ValueError(f"weights must be one of {FORMATS}; received {weights!r}.")
