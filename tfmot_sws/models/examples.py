"""Checks the examples that a model is called with."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def check_examples(name: str, inputs: Any, model: Any = None) -> None:
    """Checks that inputs are arrays with examples, of shapes that a model takes.

    Args:
        name: of the argument, for messages.
        inputs: should be an array, or a list or dict of arrays.
        model: the model that will take them; `None`: only the arrays are looked at.

    Raises:
        TypeError: there is something else than arrays of numbers or texts.
        ValueError: there are no examples, or a shape does not fit.
    """
    arrays = [_array(name, leaf) for leaf in keras.tree.flatten(inputs)]
    if not arrays or not all(map(len, arrays)):
        raise ValueError(
            f"{name} holds no examples; received {type(inputs).__name__} of shapes "
            f"{[array.shape for array in arrays]}."
        )
    expected = [tuple(t.shape) for t in getattr(model, "inputs", None) or []]
    if len(arrays) != len(expected):
        # Of a subclassed model the shapes are not known, nor how many inputs it takes.
        return
    for array, shape in zip(arrays, expected, strict=True):
        if not _fits(array.shape, shape):
            raise ValueError(
                f"{name} has shape {array.shape}; the model takes {shape}, None standing for "
                "any number."
            )


def _array(name: str, leaf: Any) -> np.ndarray[Any, Any]:
    if not hasattr(leaf, "shape"):
        raise TypeError(
            f"{name} must be an array, or a list or dict of arrays; received "
            f"{type(leaf).__name__} {str(leaf)[:60]!r}."
        )
    array = np.asarray(leaf)
    if not array.ndim:
        raise ValueError(f"{name} must have examples along its first axis; it is a scalar.")
    return array


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    if len(shape) != len(expected):
        # Keras adds a last axis of 1 where it is missing, or takes it away.
        return abs(len(shape) - len(expected)) == 1
    pairs = zip(shape[1:], expected[1:], strict=True)
    return all(wanted is None or size == wanted for size, wanted in pairs)
