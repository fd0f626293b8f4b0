"""Reads model files of Keras 3 and of tf_keras: tells which wrote a file, and loads it."""

from __future__ import annotations

import json
import os
import pathlib
import zipfile
from typing import Any

import h5py
import keras

from tfmot_sws.models.libraries import KERAS_3, Library, library_named
from tfmot_sws.models.rebuild import dicts_in

_TF_KERAS_MAJOR = "2"


def load_model_file(path: str | os.PathLike[str], trust: bool = False) -> keras.Model:
    """Loads the model in a .keras or .h5 file with the library that wrote it.

    Args:
        path: the file. Keras 2 wrote its version into it; such files are loaded by tf_keras.
        trust: whether code that the file holds, in Lambda layers, may run.

    Returns:
        An uncompiled model of Keras 3 or of tf_keras.

    Raises:
        ImportError: a file of Keras 2, and tf_keras is not installed.
        ValueError: the file cannot be read as a model, or has Lambda layers and is not
            trusted.
    """
    path = pathlib.Path(path)
    is_hdf5 = h5py.is_hdf5(path)
    version, config = _hdf5_header(path) if is_hdf5 else (_keras_version(path), None)
    if not trust and any(part.get("class_name") == "Lambda" for part in dicts_in(config)):
        # The loaders of .h5 files do not look for code.
        raise ValueError(
            f"'{path}' has a Lambda layer, whose code could do anything (unsafe). Load it "
            "only from a source that you trust: --trust."
        )
    library = _library_of_version(version, path)
    model: keras.Model = library.saving.load_model(path, compile=False, safe_mode=not trust)
    return model


def _library_of_version(version: str, path: pathlib.Path) -> Library:
    if version.partition(".")[0] != _TF_KERAS_MAJOR:
        return KERAS_3
    try:
        return library_named("tf_keras")
    except ImportError as error:
        raise ImportError(
            f"'{path}' was written by Keras {version}, which tf_keras reads: pip install "
            f"tf_keras. ({error})"
        ) from error


def _keras_version(path: pathlib.Path) -> str:
    """Reads the version from a .keras file; empty if there is none."""
    try:
        with zipfile.ZipFile(path) as file:
            return str(json.loads(file.read("metadata.json")).get("keras_version", ""))
    except (KeyError, ValueError, zipfile.BadZipFile, AttributeError):
        return ""


def _hdf5_header(path: pathlib.Path) -> tuple[str, Any]:
    """Reads the version and the model's configuration from an .h5 file.

    Raises:
        ValueError: the file holds weights alone.
    """
    with h5py.File(path, "r") as file:
        attributes = file.attrs
        if "model_config" not in attributes:
            raise ValueError(
                f"'{path}' has no model, only weights or something else. Load the weights "
                "into the model in Python, and save the model."
            )
        version = _text(attributes.get("keras_version", ""))
        return version, json.loads(_text(attributes["model_config"]))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
