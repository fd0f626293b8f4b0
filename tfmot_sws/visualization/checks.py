"""Checks the arguments, models and optional packages of this package's callbacks."""

from __future__ import annotations

import importlib

import keras

from tfmot_sws.models.wrapped import is_wrapped


def require(package: str) -> None:
    """Raises `ImportError`, with the extra to install, if an optional package is missing."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"This needs {package}, which is not installed. Install it with "
            '`pip install "tfmot-sws[visualization]"`.'
        ) from error


def check_integer(name: str, value: int, minimum: int) -> None:
    """Raises `ValueError` if an argument is not an integer from `minimum` up."""
    if not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer from {minimum}; received {value!r}.")


def check_wrapped(callback: keras.callbacks.Callback) -> None:
    """Raises `ValueError` if the model of a callback is not wrapped."""
    if not is_wrapped(callback.model):
        raise ValueError(
            f"{type(callback).__name__} works on a model wrapped by "
            f"apply_soft_weight_sharing; received {type(callback.model).__name__}."
        )
