"""One way to read a model's variables, whether Keras 3 or tf_keras (Keras 2) made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_tf_keras(thing: Any) -> bool:
    """Whether this is an object of tf_keras, told without importing it."""
    return any(is_tf_keras_class(base) for base in type(thing).__mro__)


def is_layer_of_tf_keras(thing: Any) -> bool:
    """Whether this is a layer of tf_keras that is no model, or a list with one in it."""
    if isinstance(thing, list):
        return any(is_layer_of_tf_keras(item) for item in thing)
    bases = {base.__name__ for base in type(thing).__mro__ if is_tf_keras_class(base)}
    return "Layer" in bases and "Model" not in bases


def is_tf_keras_class(kind: type) -> bool:
    """Whether tf_keras defines this class."""
    return kind.__module__.split(".")[0] == "tf_keras"


def is_wrapped(model: Any) -> bool:
    """Whether a model is under soft weight-sharing."""
    return hasattr(model, "priors")


def view_of(model: Any) -> Any:
    """The model itself if it is of Keras 3, a `ModelView` if it is of tf_keras."""
    return ModelView(model) if is_tf_keras(model) else model


def wrapped_parts(model: Any) -> list[Any]:
    """The model itself if it is wrapped, or what is wrapped within a tf_keras model."""
    if is_wrapped(model):
        return [model]
    if not is_tf_keras(model):
        return []
    return [part for part in model.submodules if getattr(part, "priors", None)]


def claims(model: Any) -> dict[int, bool]:
    """What layers of the user's own say about their weights, as tfmot asks them.

    A class may have `get_clusterable_weights`, which gives (name, variable) pairs, or
    `get_prunable_weights`, which gives variables.

    Args:
        model: of Keras 3, or a `ModelView`.

    Returns:
        By `id` of each variable in `model.weights` whose layer has such a method: whether
        the layer names it.
    """
    claimed: dict[int, bool] = {}
    for layer in _layers(getattr(model, "model", model)):
        # Methods of the class: tfmot adds some to instances of Keras' own layers.
        if hasattr(type(layer), "get_clusterable_weights"):
            named = [variable for _, variable in layer.get_clusterable_weights()]
        elif hasattr(type(layer), "get_prunable_weights"):
            named = layer.get_prunable_weights()
        else:
            continue
        taken = {id(variable) for variable in named}
        claimed.update((id(variable), id(variable) in taken) for variable in layer.weights)
    natives = ((v, getattr(v, "native", v)) for v in model.weights)
    return {id(v): claimed[id(native)] for v, native in natives if id(native) in claimed}


def _layers(model: Any) -> Iterator[Any]:
    if is_tf_keras(model):
        yield from (model, *model.submodules)
        return
    yield model
    for layer in getattr(model, "layers", ()):
        yield from _layers(layer)


class VariableView:
    """A variable of a tf_keras model, with the interface of a Keras 3 variable.

    Args:
        variable: the tf.Variable.
        path: its name in the model, unique there.
        trainable: whether the model trains it.

    Attributes:
        value: the tf.Variable, as Keras 3 names it.
        native: the tf.Variable, by which a view is told from a Keras 3 variable.
    """

    def __init__(self, variable: Any, path: str, trainable: bool) -> None:
        self.value = self.native = variable
        self.path = path
        self.name = path.rpartition("/")[2]
        self.shape = tuple(variable.shape)
        self.dtype = str(variable.dtype.name)
        self.trainable = trainable

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.array(self.numpy(), dtype=dtype)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        import tensorflow as tf

        return tf.convert_to_tensor(self.value, dtype=dtype, name=name)

    def numpy(self) -> NDArray:
        """The values."""
        return np.array(self.value.numpy())

    def assign(self, values: Any) -> None:
        """Sets the values."""
        self.value.assign(values)


class ModelView:
    """The variables of a tf_keras model or layer as a Keras 3 model would give them.

    Args:
        model: of tf_keras.

    Attributes:
        model: of tf_keras.
        name: the model's.
        weights: `VariableView` of each of the model's weights, in their order.
        variables: the same.
        trainable_weights: those that the model trains.
        built: whether the model is.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = model.name
        self.built = model.built
        trained = {id(variable) for variable in model.trainable_weights}
        variables = model.weights if model.built else []
        self.weights = [
            VariableView(variable, path, id(variable) in trained)
            for variable, path in zip(variables, _paths(variables), strict=True)
        ]
        self.variables = self.weights
        self.trainable_weights = [view for view in self.weights if view.trainable]


def _paths(variables: list[Any]) -> list[str]:
    """Names without TensorFlow's ":0"; one that is there already gets a number in front."""
    seen: Counter[str] = Counter()
    paths = []
    for variable in variables:
        name = variable.name.partition(":")[0]
        paths.append(f"{seen[name]}/{name}" if seen[name] else name)
        seen[name] += 1
    return paths
