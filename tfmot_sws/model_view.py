"""One way to read a model's variables, whether Keras 3 or tf_keras (Keras 2) made it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_tf_keras(thing: Any) -> bool:
    """Whether this is an object of tf_keras, told without importing it."""
    return any(base.__module__.split(".")[0] == "tf_keras" for base in type(thing).__mro__)


def is_wrapped(model: Any) -> bool:
    """Whether a model is under soft weight-sharing."""
    return hasattr(model, "priors")


def view_of(model: Any) -> Any:
    """The model itself if it is of Keras 3, a `ModelView` if it is of tf_keras."""
    return ModelView(model) if is_tf_keras(model) else model


class VariableView:
    """A variable of a tf_keras model, with the interface of a Keras 3 variable.

    Args:
        variable: the tf.Variable.
        path: its name in the model, unique there.
        trainable: whether the model trains it.

    Attributes:
        value: the tf.Variable.
    """

    def __init__(self, variable: Any, path: str, trainable: bool) -> None:
        self.value = variable
        self.path = path
        self.name = path.rpartition("/")[2]
        self.shape = tuple(variable.shape)
        self.dtype = str(variable.dtype.name)
        self.trainable = trainable

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        return np.array(self.value, dtype=dtype)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        import tensorflow as tf

        return tf.convert_to_tensor(self.value, dtype=dtype, name=name)

    def numpy(self) -> NDArray:
        """The values."""
        return np.array(self.value)

    def assign(self, values: Any) -> None:
        """Sets the values."""
        self.value.assign(values)


class ModelView:
    """The variables of a tf_keras model or layer as a Keras 3 model would give them.

    Args:
        model: of tf_keras.

    Attributes:
        name: the model's.
        weights: `VariableView` of each of the model's weights, in their order.
        variables: the same.
        trainable_weights: those that the model trains.
        built: whether the model is.
    """

    def __init__(self, model: Any) -> None:
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
