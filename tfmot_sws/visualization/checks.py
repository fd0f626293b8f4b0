"""Checks the arguments, models and optional packages of this package's callbacks."""

from __future__ import annotations

import importlib
from typing import Any

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


def check_canvas(name: str, canvas: Any, method: str) -> None:
    """Raises `TypeError` if an argument is neither `None` nor what matplotlib draws on."""
    if canvas is not None and not callable(getattr(canvas, method, None)):
        raise TypeError(
            f"{name} must be of matplotlib, or None for a new one; received "
            f"{type(canvas).__name__} {str(canvas)[:60]!r}."
        )


def check_wrapped(callback: keras.callbacks.Callback) -> None:
    """Raises `ValueError` if the model of a callback is not wrapped."""
    if not is_wrapped(callback.model):
        raise ValueError(
            f"{type(callback).__name__} works on a model wrapped by "
            f"apply_soft_weight_sharing; received {type(callback.model).__name__}."
        )
