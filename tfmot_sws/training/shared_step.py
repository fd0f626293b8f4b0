"""Computes a training step under soft weight-sharing, for Keras 3 and tf_keras alike.

The complexity loss is added in training only, so that `evaluate` and `val_loss` report the
error as users expect; logs show both parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfmot_sws.backend.compiling import in_compiled_step, traced
from tfmot_sws.backend.gradients import last_gradient
from tfmot_sws.models.selection import WeightChoice
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.training.complexity_weight import resolve
from tfmot_sws.training.groups import WeightGroup

Tensor = Any


class WeightSharing(keras.layers.Layer):
    """The mixtures over the weights of one model, and what a step computes with them.

    A layer of Keras 3 that is never called: it tracks and saves the mixtures' variables.

    Args:
        weights: the model's variables, in the order of its `weights`.
        choices: what was decided about each of them.
        groups: for each mixture its prior and the positions of its variables in `weights`.
        complexity_weight: tau, the value that schedules scale; `None` for the default.
        train_size: N, or `None` while unknown.
        preserve_sparsity: whether weights of kernels that are zero stay zero.

    Attributes:
        groups: `WeightGroup` records.
        choices: `WeightChoice` records of all weights.
        complexity_weight: variable, tau as it is at present.
        snap: variable, the share of the way from a weight to its mean, 0 to 1.
        dither: variable, the noise on the assignment in training, in assignment widths.
        steps: variable, the number of training steps so far, from which the noise follows.
        complexity_sum: variable, the complexity losses of an epoch's steps so far.
        first_loss: variable, the error loss of the pretrained network on a few batches; 0
            while unknown.
        lost_share: variable, how much of what the network had learned is lost, 0 to 1: the
            rise of the error loss over that to be had by chance. 0 while unknown.
        is_renewed: whether a callback renews the held losses during this training. If
            none does, as in a training loop of the user's own, each step evaluates them.
        is_measured: whether calls of a tf_keras model are to give the error loss alone, on
            weights snapped without noise.
    """

    def __init__(
        self,
        weights: Sequence[Any],
        choices: Sequence[WeightChoice],
        groups: Sequence[tuple[GaussianMixturePrior, list[int]]],
        *,
        complexity_weight: float | None = None,
        train_size: int | None = None,
        preserve_sparsity: bool = False,
    ) -> None:
        super().__init__(name="sharing", dtype="float32", autocast=False)
        self.choices = tuple(choices)
        self.base_complexity_weight = complexity_weight
        self.train_size = train_size
        self.steps_per_epoch: int | None = None
        self.preserve_sparsity = preserve_sparsity
        self.groups = tuple(
            WeightGroup.over(weights, positions, prior, preserve_sparsity=preserve_sparsity)
            for prior, positions in groups
        )
        # Keras saves the layers in public attributes, not those in records.
        self.tracked_layers = [
            layer for group in self.groups for layer in (group.prior, group.held)
        ]
        self.complexity_weight = self._scalar("complexity_weight")
        self.snap = self._scalar("snap")
        self.dither = self._scalar("dither")
        self.steps = self._scalar("steps")
        self.complexity_sum = self._scalar("complexity_sum")
        self.first_loss = self._scalar("first_loss")
        self.lost_share = self._scalar("lost_share")
        self.is_renewed = self.is_measured = False
        self._renewal: Any = None
        # On the widths that hyperpriors prefer and on those of the assignment.
        self._width_factors = 1.0, 1.0
        self.built = True
        self.complexity_weight.assign(self._base_weight())

    def _scalar(self, name: str) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )

    def set_train_size(self, train_size: int) -> None:
        """Sets N, and with it the default tau."""
        self.train_size = train_size
        self.complexity_weight.assign(self._base_weight())

    def _base_weight(self) -> float:
        """The tau that schedules scale; 0 while N is unknown and none was given."""
        size = sum(math.prod(v.shape) for group in self.groups for v in group.variables)
        return resolve(self.base_complexity_weight, self.train_size, size) or 0.0

    def anneal(
        self, *, complexity: float, snap: float, dither: float, stddev: float, assignment: float
    ) -> None:
        """Sets what schedules give; see `AnnealAndMerge`."""
        self.complexity_weight.assign(self._base_weight() * complexity)
        self.snap.assign(snap)
        self.dither.assign(dither)
        self._width_factors = stddev, assignment
        self.set_widths()

    def set_widths(self) -> None:
        """Sets all widths from what is known of the sensitivities, times schedules' factors."""
        price = self._base_weight() / float(self.train_size or 1)
        for group in self.groups:
            group.prior.set_widths(*self._width_factors, price)

    @property
    def renewal_period(self) -> int:
        """Steps from one renewal of the held losses to the next."""
        return min(group.prior.options.renewal_period for group in self.groups)

    def renew(self, *, counting: bool = False) -> None:
        """Evaluates the mixtures' losses and their gradients, which steps then hold.

        A kernel that has become all zero comes back: its network could not train on.

        Args:
            counting: whether components' members are counted, and with them the
                proportions renewed that follow the usage.
        """
        if self._renewal is None:
            self._renewal = traced(self._renewed)
        weights = [[ops.convert_to_tensor(v) for v in group.variables] for group in self.groups]
        of_priors = [[v.value for v in group.prior.variables] for group in self.groups]
        factor = ops.convert_to_tensor(self._loss_factor(), "float32")
        dead, *renewed = self._renewal(
            weights, of_priors, factor, ops.convert_to_tensor(counting)
        )
        for group, (members, log_usage, packed) in zip(self.groups, renewed, strict=True):
            group.held.assign(packed)
            group.prior.members.assign(members)
            group.prior.log_usage.assign(log_usage)
        if ops.convert_to_numpy(dead).any():
            for group in self.groups:
                group.prior.keep_alive(group.values())

    def _renewed(
        self, weights: Any, of_priors: Any, factor: Tensor, counting: Tensor
    ) -> list[Any]:
        """Whether any kernel has died; what is held; members and proportions; purely."""
        # Values come as arguments, because a program of JAX would make variables constants.
        dead, results = [], []
        for group, variables, values in zip(self.groups, weights, of_priors, strict=True):
            prior = group.prior
            tensors = [ops.cast(variable, "float32") for variable in variables]
            before = list(zip(prior.variables, values, strict=True))
            with keras.StatelessScope(before):
                counts = prior.count(tensors)
                renewed = prior.usage_after(ops.sum(counts, axis=0))
                now = prior.members.value, prior.log_usage.value
            after = [ops.where(counting, a, b) for a, b in zip(renewed, now, strict=True)]
            usage = list(zip((prior.members, prior.log_usage), after, strict=True))
            with keras.StatelessScope([*before, *usage]):
                packed = group.held.evaluate(tensors, prior.tensors(), factor)
            results.append((*after, packed))
            dead.append(ops.any(prior.all_zero(counts[:, 0], tensors)))
        return [ops.any(ops.stack(dead)), *results]

    def step(self, *, training: bool) -> tuple[list[tuple[Any, Tensor]], list[Tensor]]:
        """The snapped weights, each with its variable; in training also the complexity loss.

        The mixture's variables, and the number of the step, must be read once only. While
        a loss is held, the update of a variable depends on no other reading of it, and
        TensorFlow's graph optimizer then drops the rule that the reading comes first: the
        snap would at times see the mixture of the next step.
        """
        snap, step = self.snap.value, self.steps.value
        dither = self.dither.value if training else None
        factor = self._loss_factor() if training else None
        snapped: list[tuple[Any, Tensor]] = []
        losses = []
        for group in self.groups:
            mixture, weights = group.prior.tensors(), group.tensors()
            if training:
                loss = self._complexity_loss(group, weights, mixture, factor)
                if in_compiled_step():
                    # The means' gradient reads the weights. Unless it comes first, XLA
                    # copies all weights before it updates them.
                    means, loss = last_gradient(mixture.means, loss)
                    mixture = mixture._replace(means=means)
                losses.append(loss)
            moved = group.prior.snapped(
                weights, snap, dither=dither, step=step, mixture=mixture
            )
            for v, tensor in zip(group.variables, moved, strict=True):
                snapped.append((v, group.without_zeros(v, ops.cast(tensor, v.dtype))))
        if not training:
            return snapped, []
        self.steps.assign_add(1.0)
        total = sum(losses)
        self.complexity_sum.assign_add(ops.stop_gradient(total))
        return snapped, [total]

    def _complexity_loss(
        self, group: WeightGroup, weights: list[Tensor], mixture: Any, factor: Tensor
    ) -> Tensor:
        if self.is_renewed:
            return group.held.complexity_loss(group.prior, weights, factor, mixture)
        return factor * group.prior.complexity_loss(weights, mixture)

    def _loss_factor(self) -> Tensor:
        """tau / N, by which the priors' losses enter the training loss."""
        if self.train_size is None:
            raise ValueError(
                "The number of training examples is not known. `fit` works it out from "
                "its data; in a loop of your own, pass train_size= to "
                "apply_soft_weight_sharing."
            )
        return self.complexity_weight.value / float(self.train_size)

    def get_config(self) -> dict[str, Any]:
        """Configuration; `from_config` takes it together with the model's variables."""
        return {
            "choices": [vars(choice) for choice in self.choices],
            "groups": [(g.prior.get_config(), list(g.positions)) for g in self.groups],
            "complexity_weight": self.base_complexity_weight,
            "train_size": self.train_size,
            "preserve_sparsity": self.preserve_sparsity,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], weights: Sequence[Any] = ()) -> WeightSharing:
        """The inverse of `get_config`, over the variables of the model."""
        config = dict(config)
        choices = [
            WeightChoice(**{**c, "shape": tuple(c["shape"])}) for c in config.pop("choices")
        ]
        groups = [
            (GaussianMixturePrior.from_config(prior), positions)
            for prior, positions in config.pop("groups")
        ]
        return cls(weights, choices, groups, **config)


def share_weights(
    view: Any,
    choices: Sequence[WeightChoice],
    positions: Sequence[list[int]],
    make_prior: Callable[[int], GaussianMixturePrior],
    **settings: Any,
) -> WeightSharing:
    """Mixtures laid over the pretrained weights of a model.

    Args:
        view: the model's variables, as of `view_of`.
        choices: what was decided about each of `view.weights`.
        positions: of the variables of each mixture in `view.weights`.
        make_prior: makes a mixture for a number of tensors.
        settings: as of `WeightSharing`.
    """
    groups = [(make_prior(len(group)), group) for group in positions]
    sharing = WeightSharing(view.weights, choices, groups, **settings)
    for group in sharing.groups:
        group.fit_initial()
    return sharing
