"""Which numbers a picture of a model shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from tfmot_sws.models.libraries import is_tf_keras, view_of
from tfmot_sws.models.selection import choose_weights
from tfmot_sws.models.wrapped import is_wrapped

Weights = keras.Model | Mapping[str, ArrayLike] | ArrayLike
Array = NDArray[np.float32]


def read_weights(model: keras.Model, *, snapped: bool = True) -> dict[str, Array]:
    """A copy of a model's weights by path: the shared ones, or those that would be.

    Take it before `fit` for a picture of before and after, since the wrapper trains the
    very variables of the model that it was given.

    Args:
        model: a wrapped model, for its shared weights, or a plain one, for what
            `apply_soft_weight_sharing` shares by default.
        snapped: of a wrapped model, whether to read the weights that the network computes
            with, moved towards their components' means by the share `snap`, or the trained
            ones behind them. Those gather not at the means but where two components meet,
            as the loss pulls them over the border and back.

    Returns:
        float32 arrays by variable path.

    Example:
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> [array.shape for array in read_weights(dense).values()]
        [(4, 3), (3,)]
    """
    if not is_wrapped(model):
        choices = choose_weights(model, None, None)
        pairs = zip(view_of(model).weights, choices, strict=True)
        return {v.path: _copy(v) for v, choice in pairs if choice.shared}
    snap = float(ops.convert_to_numpy(model.snap)) if snapped else 0.0
    weights = {}
    for group in model.groups:
        for variable, mean in zip(group.variables, group.clustered_values(), strict=True):
            trained = _copy(variable)
            weights[variable.path] = trained + snap * (mean - trained)
    return weights


def _copy(variable: keras.Variable) -> Array:
    return np.array(ops.convert_to_numpy(variable), np.float32)


def as_arrays(weights: Any) -> dict[str, Array]:
    """Models, mappings and single arrays in one form: flat arrays by path."""
    if isinstance(weights, keras.Model) or is_tf_keras(weights):
        weights = read_weights(weights)
    elif not isinstance(weights, Mapping):
        weights = {"weights": weights}
    return {path: np.asarray(values, np.float32).ravel() for path, values in weights.items()}


def align(first: dict[str, Array], other: dict[str, Array]) -> dict[str, Array]:
    """`other` under the paths of `first`, when their arrays agree in size, in order.

    A model and its stripped twin do, while their paths may differ: Keras numbers layers, and
    puts a model's name in front or not, depending on how the model was built.
    """
    if [array.size for array in first.values()] == [array.size for array in other.values()]:
        return dict(zip(first, other.values(), strict=True))
    return other


def pair_weights(before: Any, after: Any) -> tuple[Array, Array]:
    """The same weights twice, as two flat arrays of one length.

    Raises:
        ValueError: the two have no variable in common, or sizes differ.
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
