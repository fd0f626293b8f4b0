"""Checks the arguments of public functions: a wrong one ends in one sentence, not in NumPy."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_numbers(**values: Any) -> None:
    """Checks that each value is a real number; what range it lies in is for others to check.

    Raises:
        TypeError: one is not.

    Example:
        >>> check_numbers(weight=0.5, temperature=np.float32(4))
        >>> check_numbers(weight="much")
        Traceback (most recent call last):
        TypeError: weight must be a number; received str 'much'.
    """
    for name, value in values.items():
        # NumPy and the backends give arrays without axes where one would expect a number.
        scalar = value.dtype if isinstance(value, np.ndarray) and not value.shape else None
        if not isinstance(value, numbers.Real) and (scalar is None or scalar.kind not in "fiu"):
            raise TypeError(f"{name} must be a number; received {_shown(value)}.")


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises `ValueError` if an argument is not an integer from `least` to `most`."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        upper = "" if most is None else f" to {most}"
        raise ValueError(
            f"{name} must be an integer from {least}{upper}; received {_shown(value)}."
        )


def check_flags(**values: Any) -> None:
    """Raises `TypeError` if one of the values is neither `True` nor `False`."""
    for name, value in values.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False; received {_shown(value)}.")


def check_kind(name: str, value: Any, kinds: Any, text: str) -> None:
    """Raises `TypeError` if a value is of none of these kinds, which the text describes."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {text}; received {_shown(value)}.")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises `ValueError` if a value is none of the words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}; received {_shown(value)}.")


def check_path(name: str, value: Any) -> None:
    """Raises `TypeError` if a value is no path."""
    check_kind(name, value, (str, os.PathLike), "a path")


def floats(name: str, value: Any, dtype: Any = np.float64) -> NDArray[Any]:
    """Returns a copy of numbers as an array.

    Raises:
        TypeError: they are no numbers, or nested unevenly.
    """
    try:
        return np.array(value, dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array of numbers; received {_shown(value)}."
        ) from error


def _shown(value: Any) -> str:
    """A value with its type, cut to one line."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '...'}"
