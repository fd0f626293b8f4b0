"""The record of tf_keras: what the package needs of it, and how its files are read safely."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import tensorflow as tf
import tf_keras

from tfmot_sws.models.libraries import Library, TooLargeError
from tfmot_sws.tf_keras_adapter.layer_wrapper import (
    SoftWeightSharingLayer,
    layers_in_graph,
    strip_layers,
    wrap,
)
from tfmot_sws.tf_keras_adapter.model_wrapper import TfKerasSoftWeightSharing
from tfmot_sws.tf_keras_adapter.sensitivity import squared_gradients
from tfmot_sws.tf_keras_adapter.views import view_of_tf_keras

# Room for states of random generators, which are no weights of the model.
_SLACK: Final = 1024


def _size(shape: Sequence[int | None]) -> int:
    """Entries; none of a variable of free shape, whose values a lookup is given."""
    return math.prod(size or 0 for size in shape)


@contextlib.contextmanager
def _limited(sizes: Sequence[int]) -> Iterator[None]:
    largest, total = max(sizes, default=0), sum(sizes)
    made: dict[int, int] = {}

    # TensorFlow may ask for one variable several times, on its way to the one that it makes.
    def create(next_creator: Any, **kwargs: Any) -> tf.Variable:
        shape = tuple(kwargs.get("shape") or ())
        if _size(shape) > max(largest, _SLACK):
            raise TooLargeError(shape)
        variable = next_creator(**kwargs)
        made[id(variable)] = _size(variable.shape)
        if sum(made.values()) > total + _SLACK:
            raise TooLargeError(tuple(variable.shape))
        return variable

    with tf.variable_creator_scope(create):
        yield


@contextlib.contextmanager
def _quick_building() -> Iterator[dict[str, Any]]:
    """Replaces the initial values of large variables by zeros."""

    def create(next_creator: Any, **kwargs: Any) -> tf.Variable:
        shape, dtype = tf.TensorShape(kwargs.get("shape")), kwargs.get("dtype")
        known = shape.is_fully_defined() and dtype is not None
        if known and callable(kwargs["initial_value"]) and shape.num_elements() > _SLACK:
            kwargs["initial_value"] = lambda: tf.zeros(shape, dtype)
        return next_creator(**kwargs)

    with tf.variable_creator_scope(create):
        yield {}


def _unrolled_steps(model: tf_keras.Model) -> int:
    """The longest axis but the first and the last that a recurrent or wrapped layer sees."""
    longest = 0
    for layer in _walk(model):
        if hasattr(layer, "unroll") or isinstance(layer, tf_keras.layers.Wrapper):
            for node in range(len(layer.inbound_nodes)):
                shapes = tf.nest.flatten(layer.get_input_shape_at(node)[1:-1])
                longest = max([longest, *(length or 0 for length in shapes)])
    return longest


def _walk(layer: Any) -> Iterator[Any]:
    parts = (layer, *layer.submodules) if isinstance(layer, tf.Module) else (layer,)
    yield from (part for part in parts if isinstance(part, tf_keras.layers.Layer))


def _show_inputs(model: tf_keras.Model, clone: tf_keras.Model) -> None:
    """Calls a clone once on zeros, because a subclassed model learns its inputs by a call."""
    spec = model.save_spec()
    if spec is None or clone.save_spec() is not None:
        return
    args, kwargs = tf.nest.map_structure(
        lambda s: tf.zeros([n or 1 for n in s.shape], s.dtype), spec
    )
    clone(*args, **kwargs)


TF_KERAS: Final = Library(
    name="tf_keras",
    package="tf_keras",
    model=tf_keras.Model,
    sequential=tf_keras.Sequential,
    layer=tf_keras.layers.Layer,
    input=tf_keras.Input,
    saving=tf_keras.saving,
    schedules=tf_keras.optimizers.schedules,
    policy=tf_keras.mixed_precision.global_policy,
    set_policy=tf_keras.mixed_precision.set_global_policy,
    walk=_walk,
    view=view_of_tf_keras,
    show_inputs=_show_inputs,
    limited=_limited,
    quick_building=_quick_building,
    unrolled_steps=_unrolled_steps,
    wrap=wrap,
    strip_layers=strip_layers,
    layers_in_graph=layers_in_graph,
    squared_gradients=squared_gradients,
    wrappers=(TfKerasSoftWeightSharing, SoftWeightSharingLayer),
)
