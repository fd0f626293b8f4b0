"""A tf_keras model once more, from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

policy = tf_keras.mixed_precision.global_policy
set_policy = tf_keras.mixed_precision.set_global_policy


def clone_with(
    model: tf_keras.Model, edit: Callable[[Any], Any], advice: str
) -> tf_keras.Model:
    """As `tfmot_sws.rebuild.clone_with`; `advice` is its message when that fails."""
    try:
        config = tf_keras.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise ValueError(advice) from error
    config.pop("compile_config", None)
    # The model is in memory already: its own classes may be taken as they are.
    classes = {
        type(part).__name__: type(part)
        for part in (model, *model.submodules)
        if not type(part).__module__.startswith("tf_keras.")
    }
    with tf_keras.saving.custom_object_scope(classes):
        clone = tf_keras.saving.deserialize_keras_object(edit(config), safe_mode=False)
    if not clone.built:
        raise ValueError(advice)
    _show_inputs(model, clone)
    return clone


def _show_inputs(model: tf_keras.Model, clone: tf_keras.Model) -> None:
    """Calls a clone once on zeros, for a subclassed model learns its inputs by a call."""
    spec = model.save_spec()
    if spec is None or clone.save_spec() is not None:
        return
    args, kwargs = tf.nest.map_structure(
        lambda s: tf.zeros([n or 1 for n in s.shape], s.dtype), spec
    )
    clone(*args, **kwargs)
