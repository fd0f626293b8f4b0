"""Computes a training step under soft weight-sharing, for Keras 3 and tf_keras alike.

The complexity loss is added in training only, so that `evaluate` and `val_loss` report the
error as users expect; logs show both parts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Container, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.backend.compiling import in_compiled_step
from tfmot_sws.backend.gradients import last_gradient
from tfmot_sws.models.entropy import entropy_bits
from tfmot_sws.models.libraries import native
from tfmot_sws.models.selection import WeightChoice
from tfmot_sws.prior.assignment import Part
from tfmot_sws.prior.density import MixtureTensors
from tfmot_sws.prior.density_table import total_negative_log_prob
from tfmot_sws.prior.form import MixtureState, stack, unstack
from tfmot_sws.prior.held_loss import HeldLoss
from tfmot_sws.prior.snapping import snap_to_means
from tfmot_sws.prior.survival import USUAL_GROWTH, counts_kept, keep_alive
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.training import programs
from tfmot_sws.training.complexity_weight import resolve
from tfmot_sws.training.groups import WeightGroup
from tfmot_sws.training.size_target import ControlState, SizeTarget
from tfmot_sws.training.unshared import Unshared

Tensor = Any

# The means take a gradient at one step of so many, that many times as large. The sums over
# all weights are the costliest part of a small network's step after the snap itself: at each
# step they would add 0.4 ms to the 2.4 ms of LeNet-300-100 (docs/experiments.md, 17). Means
# move slowly, so that one step in four is enough.
_MEANS_PERIOD = 4
# Of all widths, before a target's training begins.
_MOST_HALVINGS = 6


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
        target: the size that the file is to have, or its arguments by name; `None` where
            tau decides.
        unshared: what is rounded beside the shared weights; `None` for nothing.

    Attributes:
        groups: `WeightGroup` records.
        choices: `WeightChoice` records of all weights.
        complexity_weight: variable, tau as it is at present.
        snap: variable, the share of the way from a weight to its mean, 0 to 1.
        steps: variable, the number of training steps so far.
        complexity_sum: variable, the complexity losses of an epoch's steps so far.
        first_loss: variable, the error loss of the pretrained network on a few batches; 0
            while unknown.
        lost_share: variable, how much of what the network had learned is lost, 0 to 1: the
            rise of the error loss over that to be had by chance. 0 while unknown.
        is_renewed: whether a callback renews the held losses during this training. If
            none does, as in a training loop of the user's own, each step evaluates them.
        is_measured: whether calls of a tf_keras model are to give the error loss alone.
        priors: the mixture of each group.
        held: the loss of all mixtures as last evaluated.
        is_lost: whether this training has diverged, and an earlier state came back.
        epoch: the number of the present epoch in the whole training, from 0; not saved.
        ended: the share of a training, 0 to 1, at which the last epoch ended; not saved.
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
        target: SizeTarget | dict[str, Any] | None = None,
        unshared: Unshared | None = None,
    ) -> None:
        super().__init__(name="sharing", dtype="float32", autocast=False)
        self.choices = tuple(choices)
        self.base_complexity_weight = complexity_weight
        self.train_size = train_size
        self.steps_per_epoch: int | None = None
        self.preserve_sparsity = preserve_sparsity
        self.target = SizeTarget(**target) if isinstance(target, dict) else target
        self.groups = tuple(
            WeightGroup.over(weights, positions, prior, preserve_sparsity=preserve_sparsity)
            for prior, positions in groups
        )
        self.unshared = unshared or Unshared(weights, is_rounded=False)
        # Keras saves the layers in public attributes, not those in records.
        self.priors = [group.prior for group in self.groups]
        self.held = self._hold_nothing()
        self.complexity_weight = self._scalar("complexity_weight")
        self.snap = self._scalar("snap")
        self.steps = self._scalar("steps")
        self.complexity_sum = self._scalar("complexity_sum")
        self.first_loss = self._scalar("first_loss")
        self.lost_share = self._scalar("lost_share")
        self._control = self._state("control", ControlState()) if self.target else None
        self.is_renewed = self.is_measured = self.is_lost = False
        self.epoch, self.ended = 0, 0.0
        # On the widths that hyperpriors prefer and on those of the assignment.
        self._width_factors = 1.0, 1.0
        self.built = True
        self.complexity_weight.assign(self._base_weight())

    def _hold_nothing(self) -> HeldLoss:
        """Where the mixtures' loss will be held."""
        # A step computes all mixtures together, with what the first says of their form.
        forms = {prior.form for prior in self.priors}
        assert len(forms) <= 1, "the mixtures of a model must have one form"
        shapes = [tuple(v.shape) for group in self.groups for v in group.variables]
        num_components = max((form.num_components for form in forms), default=0)
        return HeldLoss(shapes, len(self.priors), num_components)

    def _scalar(self, name: str) -> keras.Variable:
        return self._state(name, 0.0)

    def _state(self, name: str, value: Any) -> keras.Variable:
        value = np.asarray(value, np.float32)
        return self.add_weight(
            name=name,
            shape=value.shape,
            dtype="float32",
            initializer=lambda _, dtype=None: ops.convert_to_tensor(value, dtype),
            trainable=False,
            aggregation="only_first_replica",
            autocast=False,
        )

    def set_train_size(self, train_size: int) -> None:
        """Sets N, and with it the default tau."""
        self.train_size = train_size
        self.complexity_weight.assign(self._base_weight())

    def _base_weight(self) -> float:
        """The tau that schedules scale; 0 while N is unknown and none was given."""
        size = sum(group.size for group in self.groups)
        weight = resolve(self.base_complexity_weight, self.train_size, size) or 0.0
        return weight * math.exp(self.control.log_gain)

    @property
    def control(self) -> ControlState:
        """Where the control of the size stands; its default where there is no target."""
        if self._control is None:
            return ControlState()
        return ControlState(*ops.convert_to_numpy(self._control).tolist())

    @control.setter
    def control(self, state: ControlState) -> None:
        assert self._control is not None
        self._control.assign(np.asarray(state, np.float32))

    @property
    def coarseness(self) -> float:
        """How coarsely components are told apart: 1 by default, less where a target needs it.

        It is the factor on the squared assignment widths.
        """
        return min(1.0, math.exp(self.control.log_gain + 2.0 * self.control.log_width))

    def anneal(
        self, *, complexity: float, snap: float, stddev: float, assignment: float
    ) -> None:
        """Sets what schedules give; see `AnnealAndMerge`."""
        self.complexity_weight.assign(self._base_weight() * complexity)
        self.snap.assign(snap)
        self._width_factors = stddev, assignment
        self.set_widths()

    def set_widths(self) -> None:
        """Sets all widths from what is known of the sensitivities, times schedules' factors."""
        price = self._base_weight() / float(self.train_size or 1)
        stddev, assignment = self._width_factors
        assignment *= math.exp(self.control.log_width)
        for group in self.groups:
            group.prior.set_widths(stddev, assignment, price)

    @property
    def renewal_period(self) -> int:
        """Steps from one renewal of the held losses to the next."""
        return min(group.prior.options.renewal_period for group in self.groups)

    def count(self, *, following: bool = True, growth: float | None = None) -> None:
        """Counts the components' members; a kernel with hardly a weight left gets some back.

        Without them its network could not train on.

        Args:
            following: whether the proportions that follow the usage are renewed.
            growth: as of `keep_alive`; `None`: the usual one where proportions are renewed,
                and none where the rule of the assignment is fixed.
        """
        if growth is None:
            growth = USUAL_GROWTH if following else 1.0
        care, *renewed = programs.run("counted", self.groups)
        if following:
            for group, (members, log_usage) in zip(self.groups, renewed, strict=True):
                group.prior.members.assign(members)
                group.prior.log_usage.assign(log_usage)
        # Narrowing counts the others, too: a program of the needy alone would be one more.
        needy = ops.convert_to_numpy(care)
        if needy.any():
            groups = list(itertools.compress(self.groups, needy))
            keep_alive(
                [group.prior for group in groups],
                [group.values() for group in groups],
                growth=growth,
                count=lambda: list(itertools.compress(self.tensor_counts(), needy)),
            )

    def renew(self, *, counting: bool = False) -> None:
        """Evaluates the mixtures' losses and their gradients, which steps then hold.

        Args:
            counting: whether members are counted first.
        """
        if counting:
            self.count()
        factor = ops.convert_to_tensor(self._loss_factor(), "float32")
        evaluated = programs.run("evaluated", self.groups, factor)
        self.held.assign(evaluated)

    def tensor_counts(self) -> list[NDArray[np.floating]]:
        """Number of weights in each component, for each mixture (T, K)."""
        return self._tensor_counts(1.0, is_cared=True)

    def counts_at(self, factor: float) -> list[NDArray[np.floating]]:
        """As `tensor_counts`, once kernels are cared for at other widths.

        Args:
            factor: on the assignment widths that follow from sensitivities.
        """
        every = self._tensor_counts(factor, is_cared=False)
        return [
            counts_kept(group.prior, counts, [tuple(v.shape) for v in group.variables])
            for group, counts in zip(self.groups, every, strict=True)
        ]

    def _tensor_counts(self, factor: float, *, is_cared: bool) -> list[NDArray[np.floating]]:
        arguments = [ops.convert_to_tensor(n, "float32") for n in (factor, float(is_cared))]
        counts = programs.run("tensor_counts", self.groups, *arguments)
        return [ops.convert_to_numpy(of_group) for of_group in counts]

    def counts(self) -> list[NDArray[np.intp]]:
        """Number of weights in each component, for each mixture (K,)."""
        return [np.rint(c.sum(axis=0)).astype(np.intp) for c in self.tensor_counts()]

    @property
    def taken_variables(self) -> list[Any]:
        """The variables whose places tensors take in a step, in the order of `step`."""
        shared = [variable for group in self.groups for variable in group.variables]
        return shared + self.unshared.taken_variables

    def step(self, *, training: bool) -> tuple[list[tuple[Any, Tensor]], list[Tensor]]:
        """The snapped weights, each with its variable; in training also the complexity loss.

        Rounded vectors follow the weights, in the order of `taken_variables`.

        The mixture's variables, and the number of the step, must be read once only. While
        a loss is held, the update of a variable depends on no other reading of it, and
        TensorFlow's graph optimizer then drops the rule that the reading comes first: the
        snap would at times see the mixture of the next step.
        """
        snap, step = self.snap.value, self.steps.value
        state = stack([prior.state() for prior in self.priors])
        stacked = self.priors[0].form.tensors(state)
        mixtures = unstack(stacked)
        weights = [group.tensors() for group in self.groups]
        if training:
            total = self._complexity_loss(weights, state, stacked)
            if in_compiled_step():
                # The means' gradient reads the weights. Unless it comes first, XLA
                # copies all weights before it updates them.
                for i, mixture in enumerate(mixtures):
                    means, total = last_gradient(mixture.means, total)
                    mixtures[i] = mixture._replace(means=means)
        parts = [
            Part(of_group, mixture, prior.assignment_widths())
            for of_group, mixture, prior in zip(weights, mixtures, self.priors, strict=True)
        ]
        moved = snap_to_means(parts, snap, means_factor=_means_factor(step))
        snapped = self._in_place_of_variables(moved, snap)
        if not training:
            return snapped, []
        self.steps.assign_add(1.0)
        self.complexity_sum.assign_add(ops.stop_gradient(total))
        return snapped, [total]

    def snapped(self) -> list[tuple[Any, Tensor]]:
        """The tensors that `step` gives, from a program, which is faster outside of a step."""
        snap = ops.convert_to_tensor(self.snap)
        moved = programs.run("snapped", self.groups, snap)
        return self._in_place_of_variables(moved, snap)

    def _in_place_of_variables(
        self, moved: Sequence[Sequence[Tensor]], snap: Tensor
    ) -> list[tuple[Any, Tensor]]:
        """Each of `taken_variables` with its tensor, given the weights that have moved."""
        snapped = [
            (v, group.without_zeros(v, ops.cast(tensor, v.dtype)))
            for group, tensors in zip(self.groups, moved, strict=True)
            for v, tensor in zip(group.variables, tensors, strict=True)
        ]
        instead = {id(native(variable)): tensor for variable, tensor in snapped}
        return snapped + self.unshared.step(snap, instead)

    def _complexity_loss(
        self, weights: list[list[Tensor]], state: MixtureState, stacked: MixtureTensors
    ) -> Tensor:
        """tau / N times the complexity loss, of which the weights' part may be held."""
        factor, form = self._loss_factor(), self.priors[0].form
        sizes = [group.size for group in self.groups]
        of_hyperpriors = factor * form.hyperprior_loss(stacked, state, sizes)
        if self.is_renewed:
            flat = [tensor for of_group in weights for tensor in of_group]
            return self.held.loss(flat, stacked, factor) + of_hyperpriors
        of_weights = map(total_negative_log_prob, weights, unstack(stacked))
        return factor * sum(of_weights) + of_hyperpriors

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
            "target": None if self.target is None else dataclasses.asdict(self.target),
            "unshared": self.unshared.to_config(),
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
        unshared = config.pop("unshared", None)
        if unshared is not None:
            unshared = Unshared.from_config(unshared, weights)
        return cls(weights, choices, groups, unshared=unshared, **config)


def _means_factor(step: Tensor) -> Tensor:
    """Multiplies the gradient of the means at a step."""
    return ops.where(step % _MEANS_PERIOD < 0.5, float(_MEANS_PERIOD), 0.0)


def share_weights(
    view: Any,
    choices: Sequence[WeightChoice],
    positions: Sequence[list[int]],
    make_prior: Callable[[int], GaussianMixturePrior],
    least_bits: float = 0.0,
    *,
    rounding: bool = True,
    replaceable: Container[int] | None = None,
    **settings: Any,
) -> WeightSharing:
    """Mixtures laid over the pretrained weights of a model.

    Args:
        view: the model's variables, as of `view_of`.
        choices: what was decided about each of `view.weights`.
        positions: of the variables of each mixture in `view.weights`.
        make_prior: makes a mixture for a number of tensors.
        least_bits: entropy that the first assignment is to have, in bits a weight.
        rounding: whether vectors that are not shared are rounded.
        replaceable: the `id` of each variable whose place a tensor can take; `None` for all.
        settings: as of `WeightSharing`.
    """
    groups = [(make_prior(len(group)), group) for group in positions]
    model = getattr(view, "model", view)
    unshared = Unshared.of(model, view.weights, choices, replaceable, is_rounded=rounding)
    sharing = WeightSharing(view.weights, choices, groups, unshared=unshared, **settings)
    for group in sharing.groups:
        group.fit_initial(least_bits)
    if least_bits:
        _open_up(sharing, least_bits)
    return sharing


def _open_up(sharing: WeightSharing, least_bits: float) -> None:
    """Narrows all widths until the assignment has so many bits a weight.

    Proportions follow the usage: components that have no weights at first are not to be had
    any more when they are needed.
    """
    for halvings in range(_MOST_HALVINGS):
        counts = [of_tensor for group in sharing.tensor_counts() for of_tensor in group]
        bits = sum(entropy_bits(of_tensor) * of_tensor.sum() for of_tensor in counts)
        if bits >= least_bits * sum(of_tensor.sum() for of_tensor in counts):
            return
        log_width = -(halvings + 1) * math.log(2.0)
        sharing.control = sharing.control._replace(log_width=log_width)
        sharing.set_widths()
