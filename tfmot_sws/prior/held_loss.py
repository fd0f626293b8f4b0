"""The complexity loss in training: its costly part is renewed every few steps, and held.

The prior's pull on a weight changes slowly, the error's gradient with every batch. So
-sum_i log p(w_i) and its gradients are evaluated at one step in a few and held in between,
as molecular dynamics does with forces of long range. A step then adds one number to each
weight's gradient, which costs next to nothing at any number of components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmot_sws.backend.compilation import assign_when, with_gradients
from tfmot_sws.backend.packing import Packing
from tfmot_sws.prior.density import MixtureTensors
from tfmot_sws.prior.density_table import total_and_gradients
from tfmot_sws.prior.trainable import GaussianMixturePrior

Tensor = Any

# Smaller tensors are held in one variable together: each takes some microseconds of every step.
JOINED_BELOW = 1 << 16


class HeldGradients(keras.layers.Layer):
    """What is held between two evaluations of one mixture's complexity loss.

    Keras 3 saves none of it: after loading, the next step evaluates anew. tf_keras, which
    knows only the variables, saves and restores them.

    Args:
        shapes: of the shared tensors, in their order.
        num_components: K of the prior.
        period: steps from one evaluation to the next, >= 1.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        num_components: int,
        *,
        period: int,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype="float32", autocast=False)
        self.period = period
        self.age = self._held("age", ())
        self._factor = self._held("factor", ())
        # The value, and its gradients in the weights and in the mixture's fields.
        fields = [(num_components,)] * len(MixtureTensors._fields)
        self._packing = Packing([(), *shapes, *fields], JOINED_BELOW)
        self._packed = [
            self._held(f"gradients_{i}", (size,)) for i, size in enumerate(self._packing.sizes)
        ]
        self.built = True

    def _held(self, name: str, shape: tuple[int, ...]) -> keras.Variable:
        """A variable of which each replica has its own copy: all compute the same."""
        return keras.Variable(
            initializer="zeros",
            shape=shape,
            dtype="float32",
            trainable=False,
            autocast=False,
            synchronization="on_read",
            aggregation="only_first_replica",
            # HDF5 files of tf_keras ask for a different name for each.
            name=f"{self.name}_{name}",
        )

    @classmethod
    def of(
        cls, prior: GaussianMixturePrior, shapes: Sequence[tuple[int, ...]]
    ) -> HeldGradients:
        """For a prior over tensors of these shapes, with the period of its options."""
        return cls(shapes, prior.num_components, period=prior.options.renewal_period)

    def renew(self) -> None:
        """Has the next step evaluate anew, as after a change of the mixture from outside."""
        self.age.assign(0.0)

    def complexity_loss(
        self,
        prior: GaussianMixturePrior,
        weights: list[Tensor],
        factor: Tensor | float = 1.0,
        mixture: MixtureTensors | None = None,
    ) -> Tensor:
        """factor `prior.complexity_loss(weights)`, its first term as at the last renewal.

        Args:
            prior: the mixture, with the K of the constructor.
            weights: float32 tensors of the constructor's shapes.
            factor: scalar tau / N >= 0. The gradients are held with the factor that they
                were renewed at, so that no step need multiply them; a change by more than
                a tenth renews them.
            mixture: `prior.tensors()`, where those are at hand.

        Returns:
            Scalar. Its gradients are those of the last renewal, plus those of the
            hyperpriors, which are exact at every step.
        """
        mixture = prior.tensors() if mixture is None else mixture
        factor = ops.stop_gradient(ops.convert_to_tensor(factor, "float32"))
        value, gradients = self._value_and_gradients([*weights, *mixture], factor)
        size = sum(math.prod(w.shape) for w in weights)
        held = with_gradients(factor * value, [*weights, *mixture], gradients)
        return held + factor * prior.hyperprior_loss(mixture, size)

    def _value_and_gradients(
        self, tensors: list[Tensor], factor: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Evaluated at the first of `period` steps, held for the others.

        Returns:
            The value, and its gradients times the factor.
        """
        fixed = [ops.stop_gradient(tensor) for tensor in tensors]
        change = ops.abs(factor - self._factor.value)
        due = ops.logical_or(self.age.value < 0.5, change > 0.1 * self._factor.value)

        def renewed() -> list[Tensor]:
            return [factor, *self._packing.pack(_evaluate(fixed, factor))]

        assign_when(due, [self._factor, *self._packed], renewed)
        self.age.assign((ops.where(due, 0.0, self.age.value) + 1.0) % self.period)
        value, *gradients = (ops.stop_gradient(tensor) for tensor in self.read())
        return value, gradients

    def read(self) -> list[Tensor]:
        """As last evaluated: the value, and its gradients times the factor of then.

        Returns:
            A scalar, a tensor for each of the weights, and one for each of the mixture's
            three fields, (K,).
        """
        return self._packing.unpack([variable.value for variable in self._packed])

    def save_own_variables(self, store: Any) -> None:
        """Saves nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Nothing was saved; what is held belongs to other weights."""
        self.renew()


def _evaluate(tensors: list[Tensor], factor: Tensor) -> list[Tensor]:
    """-sum_i log p(w_i), and its gradients in the weights and the mixture, times the factor."""
    total, gradients = total_and_gradients(tensors[:-3], MixtureTensors(*tensors[-3:]))
    return [total, *(factor * gradient for gradient in gradients)]
