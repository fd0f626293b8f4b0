"""Turns the wrapped model into a plain one.

The plain model is rebuilt from its configuration in float32 and is not compiled: a compiled
`.keras` file carries the optimizer's slots, and a mixed-precision model does not convert to
LiteRT.
"""

from __future__ import annotations

import warnings

import keras
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.backend.scalars import to_float
from tfmot_sws.models.libraries import library_of, native, view_of
from tfmot_sws.models.rebuild import copy_float32, finalize, float32_clone
from tfmot_sws.models.wrapped import Wrapped, is_wrapped, wrapped_parts
from tfmot_sws.training.health import find_problems


def strip_soft_weight_sharing(model: Wrapped) -> keras.Model:
    """A plain Keras model in which every shared weight is its component's mean.

    Use it after `fit`. The wrapped model stays as it is and can train on. Warns, as the end
    of `fit` did, if the training went wrong.

    Args:
        model: a model from `apply_soft_weight_sharing`, trained, or a tf_keras model with
            layers from it.

    Returns:
        An uncompiled float32 model of the same class, architecture and names. Each shared
        tensor holds at most K values, zero being exactly 0.0; all others are copied.

    Raises:
        TypeError: `model` is not wrapped (also when it was stripped already).
        ValueError: it has not been trained since it was wrapped, or its snap is still 0.
    """
    parts = wrapped_parts(model)
    if not parts:
        raise TypeError(
            "strip_soft_weight_sharing expects a model wrapped by "
            f"apply_soft_weight_sharing; received {type(model).__name__}. A model that "
            "was stripped already is plain, and needs no second strip."
        )
    if any(to_float(part.snap) == 0 < to_float(part.sharing.steps) for part in parts):
        raise ValueError(
            f"Model '{model.name}' was trained, but its weights have not begun to snap to "
            "their clusters: either the schedule of the snap stays at 0, or the training had "
            "too few calls of its step, between which the callback sets it. Train for more "
            "epochs, or compile with steps_per_execution=1."
        )
    if not all(to_float(part.snap) > 0 for part in parts):
        raise ValueError(
            f"Model '{model.name}' has not been trained under soft weight-sharing: "
            "stripping it now would round pretrained weights to a few values. Call "
            "fit(..., callbacks=[AnnealAndMerge()]) first."
        )
    for problem in find_problems(model, parts):
        warnings.warn(problem, stacklevel=2)
    strip_layers = library_of(model).strip_layers
    if not is_wrapped(model) and strip_layers:
        return copy_float32(strip_layers(model))
    plain = float32_clone(model.inner)
    for values, target in zip(stripped_values(model), view_of(plain).variables, strict=True):
        target.assign(values)
    finalize(plain)
    return plain


def stripped_values(wrapper: Wrapped) -> list[NDArray]:
    """The values of `wrapper.inner.variables`, shared weights being components' means."""
    sources = view_of(wrapper.inner).variables
    values = {id(native(v)): ops.convert_to_numpy(v) for v in sources}
    for group in wrapper.groups:
        pairs = zip(group.variables, group.clustered_values(), strict=True)
        values.update({id(native(v)): clustered for v, clustered in pairs})
    return [values[id(native(v))] for v in sources]
