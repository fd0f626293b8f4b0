"""The variables of tf_keras models with the interface of Keras 3's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.models.paths import full_paths


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
        # Among the weights of tf_keras stand vocabularies too, which configurations hold.
        of_lookups = {
            id(getattr(part, name, None))
            for part in model.submodules
            for name in ("idf_weights", "num_documents")
        }
        variables = [
            v
            for v in (model.weights if model.built else [])
            if hasattr(v, "assign") and id(v) not in of_lookups
        ]
        # Without TensorFlow's ":0".
        names = [variable.name.partition(":")[0] for variable in variables]
        paths = full_paths(model, [id(variable) for variable in variables], names)
        self.weights = [
            VariableView(variable, path, id(variable) in trained)
            for variable, path in zip(variables, paths, strict=True)
        ]
        self.variables = self.weights
        self.trainable_weights = [view for view in self.weights if view.trainable]


def view_of_tf_keras(model: Any) -> ModelView:
    """The view of a tf_keras model; of a view itself."""
    return model if isinstance(model, ModelView) else ModelView(model)
