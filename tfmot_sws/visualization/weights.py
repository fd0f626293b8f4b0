"""Reads the weights of models that the pictures show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from tfmot_sws.arguments import check_flags, check_kind, floats
from tfmot_sws.models.libraries import check_model, is_tf_keras, view_of
from tfmot_sws.models.selection import choose_weights
from tfmot_sws.models.wrapped import check_not_around, is_wrapped

Weights = keras.Model | Mapping[str, ArrayLike] | ArrayLike
Array = NDArray[np.float32]


def read_weights(
    model: keras.Model, *, snapped: bool = True, include: str | None = None
) -> dict[str, Array]:
    """Copies the shared weights of a model, by path.

    For a picture of before and after, call it before `fit`: the wrapper trains the
    variables of the model that it was given.

    Args:
        model: a wrapped model, or a plain one; of a plain model the weights are read that
            `apply_soft_weight_sharing` shares by default.
        snapped: for a wrapped model. `True`: read the weights that the network computes
            with, which are moved towards their components' means by the fraction `snap`.
            `False`: read the trained variables. These lie less at the means than at the
            boundaries between components, because the loss moves them across and back.
        include: regular expression; only variables are read in whose path it is found.

    Returns:
        float32 arrays by variable path.

    Raises:
        ValueError: no path has what `include` looks for.

    Example:
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> [array.shape for array in read_weights(dense).values()]
        [(4, 3), (3,)]
    """
    check_model(model)
    check_flags(snapped=snapped)
    check_not_around(model, "Pass that one.")
    weights = _read_wrapped(model, snapped) if is_wrapped(model) else _read_plain(model)
    if include is None:
        return weights
    found = {path: w for path, w in weights.items() if check_pattern(include).search(path)}
    if not found:
        raise ValueError(
            f"include={include!r} is found in none of the paths: {_listed(weights)}."
        )
    return found


def check_pattern(include: Any) -> re.Pattern[str]:
    """The regular expression of `include=`.

    Raises:
        TypeError: it is no text.
        ValueError: it is no regular expression.
    """
    check_kind("include", include, str, "a regular expression")
    try:
        return re.compile(include)
    except re.error as error:
        raise ValueError(
            f"include must be a regular expression; received {include!r}: {error}."
        ) from error


def _read_plain(model: keras.Model) -> dict[str, Array]:
    choices = choose_weights(model, None, None)
    pairs = zip(view_of(model).weights, choices, strict=True)
    return {choice.path: _copy(v) for v, choice in pairs if choice.shared}


def _read_wrapped(model: Any, snapped: bool) -> dict[str, Array]:
    snap = float(ops.convert_to_numpy(model.snap)) if snapped else 0.0
    weights = {}
    for group in model.groups:
        paths = [model.weight_choices[position].path for position in group.positions]
        clustered = group.clustered_values()
        for path, variable, mean in zip(paths, group.variables, clustered, strict=True):
            trained = _copy(variable)
            weights[path] = trained + snap * (mean - trained)
    return weights


def _copy(variable: keras.Variable) -> Array:
    return np.array(ops.convert_to_numpy(variable), np.float32)


def as_arrays(weights: Any) -> dict[str, Array]:
    """Converts a model, a mapping or a single array to flat arrays by path."""
    if isinstance(weights, keras.Model) or is_tf_keras(weights):
        weights = read_weights(weights)
    elif not isinstance(weights, Mapping):
        weights = {"weights": weights}
    arrays = {
        path: floats(path, values, np.float32).ravel() for path, values in weights.items()
    }
    for path, values in arrays.items():
        if not np.all(np.isfinite(values)):
            raise ValueError(f"'{path}' holds NaN or infinite values, which no axis can show.")
    return arrays


def align(first: dict[str, Array], other: dict[str, Array]) -> dict[str, Array]:
    """Gives `other` the paths of `first` if their arrays agree in size, in order.

    The paths of a model and its stripped copy may differ although their arrays agree: Keras
    numbers layers, and adds the name of the model depending on how it was built.
    """
    if [array.size for array in first.values()] == [array.size for array in other.values()]:
        return dict(zip(first, other.values(), strict=True))
    return other


def pair_weights(before: Any, after: Any) -> tuple[Array, Array]:
    """Returns the weights that two models have in common, as flat arrays of one length.

    Raises:
        ValueError: there is no common variable, or its sizes differ.
    """
    first, second = as_arrays(before), as_arrays(after)
    second = align(first, second)
    paths = [path for path in first if path in second]
    if not paths:
        raise ValueError(
            "before and after have no variable in common: received "
            f"{_listed(first)} and {_listed(second)}. Pass the same model twice: its "
            "weights read with read_weights(model) before fit, and the model after it."
        )
    for path in paths:
        if first[path].size != second[path].size:
            raise ValueError(
                f"'{path}' has {first[path].size} entries before and {second[path].size} "
                "after; the same number is expected."
            )
    joined = [np.concatenate([side[path] for path in paths]) for side in (first, second)]
    return joined[0], joined[1]


def _listed(arrays: dict[str, Array]) -> str:
    shown = ", ".join(f"'{path}'" for path in list(arrays)[:3])
    return shown + (", ..." if len(arrays) > 3 else "")
