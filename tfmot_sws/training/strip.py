"""Turns the wrapped model into a plain one.

The plain model is rebuilt from its configuration in float32 and is not compiled: a compiled
`.keras` file carries the optimizer's slots, and a mixed-precision model does not convert to
LiteRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.advice import warn
from tfmot_sws.backend.scalars import to_float
from tfmot_sws.models.libraries import library_of, native, view_of
from tfmot_sws.models.normalization import batch_norms
from tfmot_sws.models.rebuild import copy_float32, finalize, float32_clone
from tfmot_sws.models.selection import WeightChoice
from tfmot_sws.models.wrapped import (
    Wrapped,
    check_can_be_stripped,
    check_not_around,
    check_same_weights,
    is_wrapped,
    wrapped_parts,
)
from tfmot_sws.training.course import IN_A_LOOP
from tfmot_sws.training.health import find_problems
from tfmot_sws.training.unshared import Unshared


def strip_soft_weight_sharing(model: Wrapped, *, keep_statistics: bool = False) -> keras.Model:
    """A plain Keras model in which every shared weight is its component's mean.

    Use it after `fit`. The wrapped model stays as it is and can train on. Warns, as the end
    of `fit` did, if the training went wrong.

    BatchNorm computes at inference with two vectors what it does with four, and a bias in
    front of it only moves its mean. So where the model's graph shows how BatchNorm is called,
    gamma and beta take up all of it: moving means and such biases are 0, moving variances 1,
    and cost nothing in a file. Training with such statistics would not go on where it ended,
    so these layers are not trainable, which has them use the statistics in training too.

    Args:
        model: a model from `apply_soft_weight_sharing`, trained, or a tf_keras model with
            layers from it.
        keep_statistics: leave BatchNorm its four vectors and the bias in front, to train the
            plain model on or to read the statistics.

    Returns:
        An uncompiled float32 model of the same class, architecture and names. Each shared
        tensor holds at most K values, zero being exactly 0.0, and vectors that are not
        shared the rounded ones of training. Negative zeros of any tensor are 0.0.

    Raises:
        TypeError: `model` is not wrapped (also when it was stripped already), or only a model
            that it holds.
        ValueError: it has not been trained since it was wrapped, its snap is still 0,
            weights were added after wrapping, or of tf_keras a single wrapped layer lies in
            a subclassed model or in another layer.
    """
    parts = wrapped_parts(model)
    if not parts:
        raise TypeError(
            "strip_soft_weight_sharing expects a model wrapped by "
            f"apply_soft_weight_sharing; received {type(model).__name__}. A model that "
            "was stripped already is plain, and needs no second strip."
        )
    check_not_around(model)
    check_can_be_stripped(model)
    for part in parts:
        check_same_weights(part)
    if any(to_float(part.snap) == 0 < to_float(part.sharing.steps) for part in parts):
        raise ValueError(
            f"Model '{model.name}' was trained, but its weights have not begun to snap to "
            "their clusters. Either no AnnealAndMerge was among its callbacks, or the training "
            "had too few calls of its step, between which the callback sets the snap: train "
            "for more epochs, compile with steps_per_execution=1, or, for data of unknown "
            f"length, pass steps_per_epoch= to fit. {IN_A_LOOP}"
        )
    if not all(to_float(part.snap) > 0 for part in parts):
        raise ValueError(
            f"Model '{model.name}' has not been trained under soft weight-sharing: "
            "stripping it now would round pretrained weights to a few values. Call "
            "fit(..., callbacks=[AnnealAndMerge()]) first."
        )
    for problem in find_problems(model, parts):
        warn(problem)
    strip_layers = library_of(model).strip_layers
    if not is_wrapped(model) and strip_layers:
        plain = copy_float32(strip_layers(model))
        weights = view_of(plain).weights
        unshared = Unshared.of(plain, weights, _nothing_shared(weights), is_rounded=False)
        changed = unshared.stripped(_values_of(plain), keep_statistics=keep_statistics)
        put_values(plain, [{**_values_of(plain), **changed}[id(native(v))] for v in weights])
    else:
        plain, unshared = float32_clone(model.inner), model.sharing.unshared
        put_values(plain, stripped_values(model, keep_statistics=keep_statistics))
    if not keep_statistics:
        freeze_short_norms(plain, unshared)
    return plain


def stripped_values(wrapper: Wrapped, *, keep_statistics: bool = True) -> list[NDArray]:
    """The values of `wrapper.inner.variables` as stripping gives them.

    Args:
        wrapper: a wrapped model or layer.
        keep_statistics: as of `strip_soft_weight_sharing`.
    """
    values = _values_of(wrapper.inner)
    for group in wrapper.groups:
        pairs = zip(group.variables, group.clustered_values(), strict=True)
        values.update({id(native(v)): clustered for v, clustered in pairs})
    # A layer with nothing to share has no mixtures.
    if wrapper.sharing:
        unshared = wrapper.sharing.unshared
        values |= unshared.stripped(values, keep_statistics=keep_statistics)
    return [values[id(native(v))] for v in view_of(wrapper.inner).variables]


def _values_of(model: Any) -> dict[int, NDArray]:
    """The values of a model's variables by the `id` of the variable."""
    return {id(native(v)): ops.convert_to_numpy(v) for v in view_of(model).variables}


def _nothing_shared(weights: Sequence[Any]) -> list[WeightChoice]:
    return [WeightChoice(v.path, tuple(v.shape), False, "stripped") for v in weights]


def put_values(plain: Any, values: Sequence[NDArray]) -> None:
    """Sets all variables; a negative zero, as pruning leaves them, becomes zero."""
    for variable, value in zip(view_of(plain).variables, values, strict=True):
        variable.assign(np.where(value == 0, np.zeros_like(value), value))
    finalize(plain)


def freeze_short_norms(plain: Any, unshared: Unshared) -> None:
    """Has BatchNorm layers in their short form use their statistics in training too."""
    weights = view_of(plain).weights
    short = {id(native(weights[i])) for i in unshared.statistics}
    for norm in batch_norms(plain):
        if any(id(native(variable)) in short for variable in norm.own_variables):
            norm.layer.trainable = False
