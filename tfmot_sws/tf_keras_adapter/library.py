"""The record of tf_keras: what the package needs of it, and how its files are read safely."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import tensorflow as tf
import tf_keras

from tfmot_sws.models.libraries import Library, TooLargeError
from tfmot_sws.tf_keras_adapter.layer_wrapper import (
    SoftWeightSharingLayer,
    strip_layers,
    wrap,
)
from tfmot_sws.tf_keras_adapter.model_wrapper import TfKerasSoftWeightSharing
from tfmot_sws.tf_keras_adapter.sensitivity import squared_gradients
from tfmot_sws.tf_keras_adapter.views import view_of_tf_keras

_FUNCTIONS: Final = "activations|constraints|initializers|regularizers"
_ENGINE: Final = r"tf_keras\.src\.(engine\.(functional|sequential)|layers\.core\.tf_op_layer)"
# Layers that call a function of TensorFlow by its name; there are some that read files.
_BY_NAME: Final = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod")
_SAFE_NAMES: Final = re.compile(
    r"(__operators__|math|nn)\.\w+|cast|concat|expand_dims|reshape|squeeze|stack|transpose"
)


# Room for states of random generators, which are no weights of the model.
_SLACK: Final = 1024


@contextlib.contextmanager
def _limited(sizes: Sequence[int]) -> Iterator[None]:
    largest, total = max(sizes, default=0), sum(sizes)
    made: dict[int, int] = {}

    # TensorFlow may ask for one variable several times, on its way to the one that it makes.
    def create(next_creator: Any, **kwargs: Any) -> tf.Variable:
        shape = tuple(kwargs.get("shape") or ())
        if math.prod(shape) > max(largest, _SLACK):
            raise TooLargeError(shape)
        variable = next_creator(**kwargs)
        made[id(variable)] = math.prod(variable.shape)
        if sum(made.values()) > total + _SLACK:
            raise TooLargeError(tuple(variable.shape))
        return variable

    with tf.variable_creator_scope(create):
        yield


def _is_unsafe(config: dict[str, Any]) -> bool:
    if config["class_name"] not in _BY_NAME:
        return False
    settings = config.get("config")
    function = settings.get("function") if isinstance(settings, dict) else None
    return not (isinstance(function, str) and _SAFE_NAMES.fullmatch(function))


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
    class_modules=re.compile(
        rf"keras(\.({_FUNCTIONS}|layers|mixed_precision|models)(\.\w+)*)?|{_ENGINE}"
    ),
    function_modules=re.compile(rf"builtins|keras\.({_FUNCTIONS})(\.\w+)*"),
    limited=_limited,
    is_unsafe=_is_unsafe,
    wrap=wrap,
    strip_layers=strip_layers,
    squared_gradients=squared_gradients,
    wrappers=(TfKerasSoftWeightSharing, SoftWeightSharingLayer),
)
