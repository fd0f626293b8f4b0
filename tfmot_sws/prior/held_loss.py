"""The loss -sum_i log p(w_i) in training: it is evaluated every few steps, and held.

The prior's gradient in a weight changes slowly, that of the error with every batch. So
-sum_i log p(w_i) and its gradients are evaluated once in a few steps and held in between,
as molecular dynamics does with forces of long range. A step then adds one number to each
weight's gradient, which costs next to nothing at any number of components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmot_sws.backend.gradients import with_gradients
from tfmot_sws.backend.packing import Packing
from tfmot_sws.prior.density import MixtureTensors
from tfmot_sws.prior.density_table import total_and_gradients

Tensor = Any

# Smaller tensors are held in one variable together: each takes some microseconds of every step.
JOINED_BELOW = 1 << 16


def evaluate(
    groups: Sequence[tuple[Sequence[Tensor], MixtureTensors]], factor: Tensor
) -> list[Tensor]:
    """What a `HeldLoss` takes: the loss and its gradients, by a pure function.

    Args:
        groups: the weights under each mixture, float32, and that mixture of K components.
        factor: scalar tau / N >= 0. The gradients in weights are held times it, so that no
            step need multiply them, and so are those in mixtures.
    """
    totals, in_weights, in_mixtures = [], [], []
    for weights, mixture in groups:
        total, gradients = total_and_gradients(list(weights), mixture)
        totals.append(total)
        in_weights += [factor * gradient for gradient in gradients[: len(weights)]]
        in_mixtures.append(gradients[len(weights) :])
    fields = [factor * ops.stack(of_field) for of_field in zip(*in_mixtures, strict=True)]
    shapes = [tuple(weight.shape) for weights, _ in groups for weight in weights]
    packing = _packing(shapes, tuple(fields[0].shape))
    return packing.pack([sum(totals[1:], totals[0]), *in_weights, *fields])


def _packing(shapes: Sequence[tuple[int, ...]], of_field: tuple[int, ...]) -> Packing:
    """Of the value, and its gradients in the weights and in the mixtures' fields."""
    fields = [of_field] * len(MixtureTensors._fields)
    return Packing([(), *shapes, *fields], JOINED_BELOW)


class HeldLoss(keras.layers.Layer):
    """All mixtures' -sum_i log p(w_i) and its gradients, as last evaluated.

    Keras 3 saves none of it: after loading, `assign` comes before the first step. tf_keras,
    which knows only the variables, saves and restores them.

    Args:
        shapes: of the shared tensors, those of the first mixture first.
        num_mixtures: G.
        num_components: K of each mixture.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], num_mixtures: int, num_components: int
    ) -> None:
        super().__init__(dtype="float32", autocast=False)
        self._packing = _packing(shapes, (num_mixtures, num_components))
        self._packed = [
            self.add_weight(
                # HDF5 files of tf_keras ask for a different name for each.
                name=f"{self.name}_{i}",
                shape=(size,),
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
                autocast=False,
            )
            for i, size in enumerate(self._packing.sizes)
        ]
        self.built = True

    def assign(self, packed: Sequence[Tensor]) -> None:
        """Holds from now on what `evaluate` gave; to be called outside of a step."""
        for variable, value in zip(self._packed, packed, strict=True):
            variable.assign(value)

    def loss(self, weights: list[Tensor], mixtures: MixtureTensors, factor: Tensor) -> Tensor:
        """factor times -sum_i log p(w_i), with the gradients of the last `evaluate`.

        Args:
            weights: float32 tensors of the constructor's shapes.
            mixtures: all of them, each field of shape (G, K).
            factor: scalar tau / N, as at the last `evaluate`.
        """
        value, *gradients = (ops.stop_gradient(tensor) for tensor in self.read())
        return with_gradients(factor * value, [*weights, *mixtures], gradients)

    def read(self) -> list[Tensor]:
        """As last evaluated: the value, and its gradients times the factor of that time.

        Returns:
            A scalar, a tensor for each of the weights, and one for each of the mixtures'
            three fields, (G, K).
        """
        return self._packing.unpack([variable.value for variable in self._packed])

    def save_own_variables(self, store: Any) -> None:
        """Saves nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Nothing was saved; what is held belongs to other weights."""
