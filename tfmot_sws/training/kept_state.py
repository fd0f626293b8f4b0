"""The last good state of a training, to come back to when the loss becomes NaN."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray


class KeptState:
    """The values of a model's and its optimizer's variables at one time."""

    def __init__(self) -> None:
        self._values: list[NDArray] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no state is kept."""
        return self._values is None

    def take(self, model: Any) -> None:
        """Keeps the present state, in place of an earlier one."""
        # Its variables would come with the first step, after which they may be NaN.
        if hasattr(model.optimizer, "build"):
            model.optimizer.build(model.trainable_variables)
        self._values = [_values(v) for v in _variables(model)]

    def take_if_finite(self, model: Any) -> bool:
        """Keeps the present state if all trained weights are finite; says whether they are."""
        if not all(np.all(np.isfinite(_values(v))) for v in model.trainable_variables):
            return False
        self.take(model)
        return True

    def bring_back(self, model: Any) -> None:
        """Sets the model to the kept state, if there is one."""
        if self._values is None:
            return
        for variable, value in zip(_variables(model), self._values, strict=True):
            variable.assign(value)

    def clear(self) -> None:
        """Lets go of what is kept."""
        self._values = None


def _variables(model: Any) -> list[Any]:
    variables = getattr(model.optimizer, "variables", [])
    # In tf_keras it may be a method.
    return [*model.variables, *(variables() if callable(variables) else variables)]


def _values(variable: Any) -> NDArray:
    """The values of a Keras 3 variable, or of a tf.Variable that may have replicas."""
    is_keras3 = isinstance(variable, keras.Variable)
    return ops.convert_to_numpy(variable) if is_keras3 else np.asarray(variable.numpy())
