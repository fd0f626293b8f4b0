"""Decides which variables of a model are shared, and says why.

Biases are shared with the kernels when they lie within their range: they then cost almost
nothing, where unshared float32 biases can be half of a compressed file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfmot_sws.models.libraries import library_of, native, view_of, walk
from tfmot_sws.models.paths import paths_of
from tfmot_sws.models.roles import other_roles
from tfmot_sws.models.wrapped import NOT_TRAINABLE

Selector = str | Callable[[keras.Variable], bool]

_BIAS = "bias"
# So many paths say what they look like, and leave the error readable.
_PATHS_SHOWN = 8
# Names that Keras layers give to the parameters of normalisation.
_NORMALISATION = ("gamma", "beta", "scale")


@dataclasses.dataclass(frozen=True)
class WeightChoice:
    """One variable of the model and what was decided about it.

    Args:
        path: the variable's path in the model.
        shape: its shape.
        shared: whether its weights share the mixture's values.
        reason: why, in words.
    """

    path: str
    shape: tuple[int, ...]
    shared: bool
    reason: str


def choose_weights(
    model: keras.Model, include: Selector | None, exclude: Selector | None
) -> list[WeightChoice]:
    """Decides for each of `model.weights`, in their order, whether it is shared.

    Args:
        model: a built model.
        include: regular expression searched in the path, or a predicate on the variable.
            `None` takes what is trainable, without a constraint and not of a
            normalisation: kernels and embeddings (two dimensions or more; see `roles`),
            and biases unless they go further than every kernel, for the mixture covers
            the range of the kernels. Layers with tfmot's `get_clusterable_weights` or
            `get_prunable_weights` decide on their weights themselves.
        exclude: likewise, what to leave out; it overrules `include`.

    Raises:
        ValueError: when nothing is left to share, or a regular expression is invalid or
            matches nothing.
    """
    view = view_of(model)
    paths, roles, decided = paths_of(model), other_roles(model), _decided_by_layers(model)
    includes = _predicate(include, "include", paths)
    excludes = _predicate(exclude, "exclude", paths)
    _check_matches(model, "include", include, includes)
    _check_matches(model, "exclude", exclude, excludes)
    kernels = [v for v in view.trainable_weights if is_kernel(v) and id(native(v)) not in roles]
    kernel_range = max((_magnitude(v) for v in kernels), default=-1.0)
    choices = []
    for variable in view.weights:
        ident = id(native(variable))
        by_layer = decided.get(ident), roles.get(ident)
        shared, reason = _choose(variable, includes, excludes, kernel_range, *by_layer)
        choices.append(WeightChoice(paths[ident], tuple(variable.shape), shared, reason))
    if not any(choice.shared for choice in choices):
        listed = "\n".join(f"  {c.path} {c.shape}: {c.reason}" for c in choices)
        raise ValueError(
            f"Model '{model.name}' has no weights to share. Its variables are:\n"
            f"{listed or '  (none)'}\n"
            "Pass include= with a regular expression or a predicate that takes at least one."
        )
    return choices


def _check_matches(model: Any, name: str, selector: Selector | None, matches: Any) -> None:
    """Raises `ValueError` for an expression that matches no path: most often a misspelt name.

    Of a single layer, one of many, nothing needs to match.
    """
    view, is_model = view_of(model), isinstance(model, library_of(model).model)
    if not is_model or not isinstance(selector, str) or any(map(matches, view.weights)):
        return
    known = list(paths_of(model).values())
    listed = "\n".join(f"  {path}" for path in known[:_PATHS_SHOWN])
    rest = len(known) - _PATHS_SHOWN
    more = f"\n  and {rest} more: [w.path for w in model.weights]" if rest > 0 else ""
    raise ValueError(
        f"{name}={selector!r} matches none of the variables of '{model.name}', whose paths "
        f"are:\n{listed}{more}\n"
        f"Pass a regular expression that is found in one of them, or leave {name}= out."
    )


def _predicate(
    selector: Selector | None, name: str, paths: dict[int, str]
) -> Callable[[keras.Variable], bool] | None:
    if selector is None or callable(selector):
        return selector
    try:
        pattern = re.compile(selector)
        pattern.search("")
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{name} must be a regular expression on variable paths or a predicate on "
            f"variables; received {selector!r} ({error})."
        ) from error
    return lambda variable: bool(pattern.search(paths[id(native(variable))]))


def _choose(
    variable: keras.Variable,
    includes: Callable[[keras.Variable], bool] | None,
    excludes: Callable[[keras.Variable], bool] | None,
    kernel_range: float,
    decided: bool | None,
    role: str | None,
) -> tuple[bool, str]:
    if not variable.trainable:
        shared, reason = False, NOT_TRAINABLE
    elif not _is_float(variable):
        shared, reason = False, f"not floating point ({variable.dtype})"
    elif not np.prod(variable.shape):
        shared, reason = False, "empty"
    elif excludes is not None and excludes(variable):
        shared, reason = False, "excluded by exclude="
    elif includes is not None:
        shared = includes(variable)
        reason = "taken by include=" if shared else "not taken by include="
    elif decided is not None:
        shared, reason = decided, f"{'' if decided else 'not '}named by its layer"
    elif role is not None:
        shared, reason = False, role
    elif is_kernel(variable):
        shared, reason = True, "kernel"
    elif _BIAS in variable.name:
        shared = _magnitude(variable) <= kernel_range
        reason = f"bias, {'within' if shared else 'beyond'} the range of the kernels"
    else:
        shared, reason = False, "neither kernel nor bias"
    return shared, reason


def _decided_by_layers(model: Any) -> dict[int, bool]:
    """What layers of the user's own say about their weights, as tfmot asks them.

    A class may have `get_clusterable_weights`, which gives (name, variable) pairs, or
    `get_prunable_weights`, which gives variables.

    Args:
        model: of Keras 3 or tf_keras.

    Returns:
        By `id` of each variable whose layer has such a method: whether the layer names it.
    """
    decided: dict[int, bool] = {}
    for layer in walk(model):
        # Methods of the class: tfmot adds some to instances of Keras' own layers.
        if hasattr(type(layer), "get_clusterable_weights"):
            named = [variable for _, variable in layer.get_clusterable_weights()]
        elif hasattr(type(layer), "get_prunable_weights"):
            named = layer.get_prunable_weights()
        else:
            continue
        taken = {id(variable) for variable in named}
        decided.update((id(variable), id(variable) in taken) for variable in layer.weights)
    return decided


def _is_float(variable: keras.Variable) -> bool:
    return bool(keras.backend.is_float_dtype(variable.dtype))


def is_kernel(variable: keras.Variable) -> bool:
    """Whether this is a kernel or embedding: float, two axes or more, no bias, no scale."""
    if not _is_float(variable) or len(variable.shape) < 2:
        return False
    return variable.name not in _NORMALISATION and _BIAS not in variable.name


def _magnitude(variable: keras.Variable) -> float:
    """Greatest |w| of a variable; 0 if it is empty."""
    return float(np.max(np.abs(ops.convert_to_numpy(variable)), initial=0.0))


def group_by_scope(choices: list[WeightChoice], scope: str) -> list[list[int]]:
    """Positions in `model.weights` of the shared variables, one list a mixture.

    Args:
        choices: from `choose_weights`.
        scope: "model" for one mixture over everything, "layer" for one a layer.

    Raises:
        ValueError: for any other scope.
    """
    if not isinstance(scope, str) or scope not in ("model", "layer"):
        raise ValueError(f"scope must be 'model' or 'layer'; received {scope!r}.")
    groups: dict[str, list[int]] = {}
    for position, choice in enumerate(choices):
        if choice.shared:
            owner = choice.path.rpartition("/")[0] if scope == "layer" else ""
            groups.setdefault(owner, []).append(position)
    return list(groups.values())


def check_finite(model: keras.Model) -> None:
    """Raises `ValueError` naming the first variable that holds NaN or infinity."""
    paths = paths_of(model)
    for variable in filter(_is_float, view_of(model).weights):
        values = ops.convert_to_numpy(variable)
        if not np.all(np.isfinite(values)):
            path, bad = paths[id(native(variable))], int(np.sum(~np.isfinite(values)))
            raise ValueError(
                f"Variable '{path}' of model '{model.name}' holds {bad} NaN or "
                "infinite values. Load weights that are finite before wrapping."
            )
