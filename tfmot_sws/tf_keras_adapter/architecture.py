"""The architecture of tf_keras models in compressed files."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import tensorflow as tf
import tf_keras

from tfmot_sws.models.libraries import Library, too_large

_FUNCTIONS: Final = "activations|constraints|initializers|regularizers"
_ENGINE: Final = r"tf_keras\.src\.(engine\.(functional|sequential)|layers\.core\.tf_op_layer)"
# Layers that call a function of TensorFlow by its name; there are some that read files.
_BY_NAME: Final = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod")
_SAFE_NAMES: Final = re.compile(
    r"(__operators__|math|nn)\.\w+|cast|concat|expand_dims|reshape|squeeze|stack|transpose"
)


# States of random generators and their like, which are no weights of the model.
_SLACK: Final = 1024


@contextlib.contextmanager
def _limited(sizes: Sequence[int]) -> Iterator[None]:
    largest, total = max(sizes, default=0), sum(sizes)
    made: dict[int, int] = {}

    # TensorFlow may ask for one variable several times, on its way to the one that it makes.
    def create(next_creator: Any, **kwargs: Any) -> tf.Variable:
        shape = tuple(kwargs.get("shape") or ())
        if math.prod(shape) > max(largest, _SLACK):
            raise too_large(shape)
        variable = next_creator(**kwargs)
        made[id(variable)] = math.prod(variable.shape)
        if sum(made.values()) > total + _SLACK:
            raise too_large(tuple(variable.shape))
        return variable

    with tf.variable_creator_scope(create):
        yield


def _is_unsafe(config: dict[str, Any]) -> bool:
    if config["class_name"] not in _BY_NAME:
        return False
    settings = config.get("config")
    function = settings.get("function") if isinstance(settings, dict) else None
    return not (isinstance(function, str) and _SAFE_NAMES.fullmatch(function))


TF_KERAS: Final = Library(
    name="tf_keras",
    model=tf_keras.Model,
    serialize=tf_keras.saving.serialize_keras_object,
    deserialize=tf_keras.saving.deserialize_keras_object,
    registered=tf_keras.saving.get_registered_object,
    class_modules=re.compile(
        rf"keras(\.({_FUNCTIONS}|layers|mixed_precision|models)(\.\w+)*)?|{_ENGINE}"
    ),
    function_modules=re.compile(rf"builtins|keras\.({_FUNCTIONS})(\.\w+)*"),
    limited=_limited,
    is_unsafe=_is_unsafe,
)
