"""What rebuilding takes of tf_keras."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

saving = tf_keras.saving
policy = tf_keras.mixed_precision.global_policy
set_policy = tf_keras.mixed_precision.set_global_policy


def show_inputs(model: tf_keras.Model, clone: tf_keras.Model) -> None:
    """Calls a clone once on zeros, for a subclassed model learns its inputs by a call."""
    spec = model.save_spec()
    if spec is None or clone.save_spec() is not None:
        return
    args, kwargs = tf.nest.map_structure(
        lambda s: tf.zeros([n or 1 for n in s.shape], s.dtype), spec
    )
    clone(*args, **kwargs)
