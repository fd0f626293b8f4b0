"""What the wrappers of Keras 3 and of tf_keras have in common: a step's mathematics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.backend.compilation import in_compiled_step, last_gradient
from tfmot_sws.models.selection import WeightChoice
from tfmot_sws.prior.held_loss import HeldGradients
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.training.complexity_weight import default_complexity_weight

Tensor = Any


class Sharing:
    """Mixtures over the weights of a model or layer, and what a step computes with them.

    A mixin. The wrapper has `inner`, whose weights are shared, and `shared_variables`, and
    keeps what `_sharing_state` returns under the same names.
    """

    shared_variables: Any
    priors: list[GaussianMixturePrior]
    held_gradients: list[HeldGradients]
    shared_weights: list[WeightChoice]
    base_complexity_weight: float | None
    train_size: int | None
    steps_per_epoch: int | None
    preserve_sparsity: bool
    complexity_weight: keras.Variable
    snap: keras.Variable
    dither: keras.Variable
    steps: keras.Variable
    complexity_sum: keras.Variable
    _groups: list[list[int]]

    @staticmethod
    def _sharing_state(
        variables: list[list[Any]],
        priors: list[GaussianMixturePrior],
        groups: list[list[int]],
        choices: list[WeightChoice],
        make_scalar: Callable[[str, float], keras.Variable],
        *,
        complexity_weight: float | None,
        train_size: int | None,
        preserve_sparsity: bool,
    ) -> dict[str, Any]:
        """The attributes of a wrapper, by name.

        Args:
            variables: the shared ones, one list a mixture.
            priors: one a group.
            groups: positions in `inner.weights` of each group's shared variables.
            choices: what was decided about each of `inner.weights`.
            make_scalar: makes a variable of a name and a first value.
            complexity_weight: tau, or `None` for the default.
            train_size: N, or `None` while unknown.
            preserve_sparsity: whether weights of kernels that are zero stay zero.
        """
        if complexity_weight is not None:
            tau = complexity_weight
        else:
            tau = default_complexity_weight(train_size) if train_size is not None else 0.0
        firsts = {
            "complexity_weight": tau,
            "snap": 0.0,
            "dither": 0.0,
            "steps": 0.0,
            "complexity_sum": 0.0,
        }
        return {
            "priors": list(priors),
            "held_gradients": [
                HeldGradients.of(prior, [tuple(v.shape) for v in members])
                for prior, members in zip(priors, variables, strict=True)
            ],
            "shared_weights": list(choices),
            "base_complexity_weight": complexity_weight,
            "train_size": train_size,
            "steps_per_epoch": None,
            "preserve_sparsity": preserve_sparsity,
            "_groups": [list(group) for group in groups],
            **{name: make_scalar(name, value) for name, value in firsts.items()},
        }

    def _set_train_size(self, train_size: int) -> None:
        self.train_size = train_size
        if self.base_complexity_weight is None:
            self.complexity_weight.assign(default_complexity_weight(train_size))

    def settle_complexity_weight(self, learning_rate: float) -> None:
        """Fixes the tau that schedules scale, if none was given; `AnnealAndMerge` does so."""
        if self.base_complexity_weight is None and self.train_size is not None:
            self.base_complexity_weight = default_complexity_weight(
                self.train_size, learning_rate
            )

    def assignments(self) -> list[list[NDArray[np.int32]]]:
        """The component slot of every shared weight: arrays shaped as `shared_variables`."""
        slots = []
        for prior, variables in zip(self.priors, self.shared_variables, strict=True):
            flat = ops.convert_to_numpy(prior.assign(_join(variables)))
            ends = np.cumsum([np.prod(v.shape, dtype=int) for v in variables])
            parts = np.split(flat, ends[:-1])
            shaped = [p.reshape(v.shape) for p, v in zip(parts, variables, strict=True)]
            for variable, part in zip(variables, shaped, strict=True):
                if self._keeps_zeros(variable):
                    part[ops.convert_to_numpy(variable) == 0] = 0
            slots.append(shaped)
        return slots

    def _keeps_zeros(self, variable: keras.Variable) -> bool:
        return self.preserve_sparsity and len(variable.shape) > 1

    def _without_zeros(self, variable: keras.Variable, tensor: Tensor) -> Tensor:
        """The tensor, but zero and without a gradient where a zero is to be kept."""
        if not self._keeps_zeros(variable):
            return tensor
        return ops.where(ops.equal(variable, 0), ops.zeros_like(tensor), tensor)

    def _share_step(
        self, *, training: bool
    ) -> tuple[list[tuple[keras.Variable, Tensor]], list[Tensor]]:
        """The snapped weights, each with its variable; in training also the complexity loss.

        The mixture's variables, and the number of the step, must be read once only. While
        the prior's pull is held, the update of a variable depends on no other reading of
        it, and TensorFlow's graph optimizer then drops the rule that the reading comes
        first: the snap would at times see the mixture of the next step.
        """
        share, step = self.snap.value, self.steps.value
        dither = self.dither.value if training else None
        snapped: list[tuple[keras.Variable, Tensor]] = []
        factor = self._loss_factor() if training else None
        losses = []
        for prior, held, variables in zip(
            self.priors, self.held_gradients, self.shared_variables, strict=True
        ):
            mixture = prior.tensors()
            weights = [self._without_zeros(v, ops.cast(v, "float32")) for v in variables]
            if training:
                loss = held.complexity_loss(prior, weights, factor, mixture)
                if in_compiled_step():
                    # The means' gradient reads the weights. Were it not to come first, XLA
                    # would copy them all before it updates them.
                    means, loss = last_gradient(mixture.means, loss)
                    mixture = mixture._replace(means=means)
                losses.append(loss)
            moved = prior.snap(weights, share, dither=dither, step=step, mixture=mixture)
            for v, tensor in zip(variables, moved, strict=True):
                snapped.append((v, self._without_zeros(v, ops.cast(tensor, v.dtype))))
        if not training:
            return snapped, []
        self.steps.assign_add(1.0)
        loss = sum(losses)
        self.complexity_sum.assign_add(ops.stop_gradient(loss))
        return snapped, [loss]

    def _loss_factor(self) -> Tensor:
        """tau / N, by which the priors' losses enter the training loss."""
        if self.train_size is None:
            raise ValueError(
                "The number of training examples is not known. `fit` works it out from "
                "its data; in a loop of your own, pass train_size= to "
                "apply_soft_weight_sharing."
            )
        return self.complexity_weight.value / float(self.train_size)

    def _sharing_config(self) -> dict[str, Any]:
        """What a wrapper's configuration says beyond `inner` and `priors`."""
        return {
            "groups": self._groups,
            "choices": [vars(choice) for choice in self.shared_weights],
            "complexity_weight": self.base_complexity_weight,
            "train_size": self.train_size,
            "preserve_sparsity": self.preserve_sparsity,
        }


def choices_from_config(choices: list[dict[str, Any]]) -> list[WeightChoice]:
    """The records that `_sharing_config` has turned into dictionaries."""
    return [WeightChoice(**{**choice, "shape": tuple(choice["shape"])}) for choice in choices]


def _join(variables: list[keras.Variable]) -> Tensor:
    """All entries of some variables as one flat float32 tensor."""
    return ops.concatenate([ops.reshape(ops.cast(v, "float32"), (-1,)) for v in variables])
