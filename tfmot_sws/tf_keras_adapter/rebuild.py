"""A tf_keras model once more, from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    return clone
