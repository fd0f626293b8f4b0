"""What the trained numbers of a mixture stand for: pure functions, of one mixture or of many.

A step needs the mixtures of all layers. An operation on a few numbers takes a microsecond,
however few they are; so mixtures of one form are computed together, along a leading axis.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.prior.density import DEAD, MixtureTensors
from tfmot_sws.prior.hyperpriors import BetaHyperprior, gamma_negative_log_prob
from tfmot_sws.prior.options import PriorOptions
from tfmot_sws.prior.rounding import rounded_straight_through
from tfmot_sws.prior.uniform import STEP_BITS, grid_integers

Tensor = Any


class MixtureState(NamedTuple):
    """The variables of a `GaussianMixturePrior` on which its mixture depends, as tensors.

    Each may have a leading axis, one entry a mixture.
    """

    trained: Tensor
    alive: Tensor
    members: Tensor
    log_usage: Tensor
    target_stddevs: Tensor


def stack(states: Sequence[MixtureState]) -> MixtureState:
    """The states of mixtures of one form, along a leading axis."""
    return MixtureState(*(ops.stack(values) for values in zip(*states, strict=True)))


def unstack(mixtures: MixtureTensors) -> list[MixtureTensors]:
    """Each of several mixtures, whose fields are (G, K)."""
    fields = (ops.unstack(field) for field in mixtures)
    return [MixtureTensors(*of_one) for of_one in zip(*fields, strict=True)]


@dataclasses.dataclass(frozen=True)
class MixtureForm:
    """How trained numbers become a mixture; arguments as of `GaussianMixturePrior`."""

    num_components: int
    zero_proportion: float | BetaHyperprior | None
    options: PriorOptions
    mean_bits: int | None
    codebook: str

    @property
    def is_uniform(self) -> bool:
        """Whether the means lie on a grid."""
        return self.codebook == "uniform"

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """How many numbers each part of the trained vector has, by name; see `by_field`."""
        others = self.num_components - 1
        sizes = {"reach": 1} if self.is_uniform else {"means": others}
        sizes["log_precisions"] = self.num_components
        if self.zero_proportion is not None:
            sizes["log_proportions"] = others
        if isinstance(self.zero_proportion, BetaHyperprior):
            sizes["zero_logit"] = 1
        return sizes

    @functools.cached_property
    def ends(self) -> list[int]:
        """Where the parts of the trained vector end, but the last."""
        return np.cumsum(list(self.sizes.values()))[:-1].tolist()

    @functools.cached_property
    def rates(self) -> NDArray[np.float32]:
        """The learning rate multiple of each trained number."""
        rates = self.options.learning_rates
        of = {"reach": rates.means, "means": rates.means, "zero_logit": rates.log_proportions}
        of |= {"log_precisions": rates.log_precisions, "log_proportions": rates.log_proportions}
        return np.concatenate(
            [np.full(size, of[name], np.float32) for name, size in self.sizes.items()]
        )

    @functools.cached_property
    def integers(self) -> NDArray[np.float32]:
        """Those of the grid's points but zero, (K - 1,)."""
        return grid_integers(self.num_components)

    def by_field(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector laid out as the trained numbers, such as their gradient.

        Args:
            vector: (..., V).

        Returns:
            By name: "means" mu_k, (..., K - 1), or on a grid "reach", the mean of its
            greatest integer, (..., 1); "log_precisions" gamma_k, (..., K); unless
            proportions follow the usage "log_proportions" rho_k, (..., K - 1); and if pi_0
            is learned "zero_logit", (..., 1).
        """
        return dict(zip(self.sizes, ops.split(vector, self.ends, axis=-1), strict=True))

    def tensors(self, state: MixtureState) -> MixtureTensors:
        """The mixture, (..., K), differentiable in what is trained."""
        fields = self.by_field(_at_rate(state.trained, self.rates))
        means = self._on_grid(fields, state) if self.is_uniform else self._free(fields, state)
        return MixtureTensors(
            ops.concatenate([ops.zeros_like(means[..., :1]), means], axis=-1),
            fields["log_precisions"],
            self._log_proportions(fields, state),
        )

    def _free(self, fields: dict[str, Tensor], state: MixtureState) -> Tensor:
        """Means that are each trained by itself, (..., K - 1)."""
        means = _averaged(fields["means"], state.members[..., 1:])
        if self.mean_bits is None:
            return means
        return rounded_straight_through(means, self.mean_bits)

    def _on_grid(self, fields: dict[str, Tensor], state: MixtureState) -> Tensor:
        """Integers times the one step that is trained, (..., K - 1).

        The trained number is the outermost mean, so that it moves as far as a free mean would.
        Its members' moves determine it by least squares, in which each has the square of its
        place on the grid as its weight.
        """
        most = self.integers[-1]
        places = ops.convert_to_tensor(np.square(self.integers / most))
        members = ops.sum(state.members[..., 1:] * places, axis=-1, keepdims=True)
        reach = _averaged(fields["reach"], members)
        step = rounded_straight_through(reach / most, self.mean_bits or STEP_BITS)
        return ops.convert_to_tensor(self.integers) * step

    def _log_proportions(self, fields: dict[str, Tensor], state: MixtureState) -> Tensor:
        """log pi_k, (..., K)."""
        if self.zero_proportion is None:
            return state.log_usage
        log_zero, log_rest = self._log_zero(fields)
        others_alive = state.alive[..., 1:] > 0.5
        proportions = ops.where(others_alive, fields["log_proportions"], DEAD)
        others = ops.where(others_alive, ops.log_softmax(proportions) + log_rest, DEAD)
        zero = ops.zeros_like(others[..., :1]) + log_zero
        return ops.concatenate([zero, others], axis=-1)

    def _log_zero(self, fields: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """log pi_0 and log(1 - pi_0), (..., 1) or scalars."""
        if isinstance(self.zero_proportion, BetaHyperprior):
            logit = fields["zero_logit"]
            return ops.log_sigmoid(logit), ops.log_sigmoid(-logit)
        zero = np.float32(self.zero_proportion)
        return ops.convert_to_tensor(np.log(zero)), ops.convert_to_tensor(np.log1p(-zero))

    def hyperprior_loss(
        self, mixture: MixtureTensors, state: MixtureState, num_weights: int | Sequence[int]
    ) -> Tensor:
        """-sum_k log Gamma(lambda_k) - log Beta(pi_0) of all mixtures, a scalar.

        Args:
            mixture: `tensors(state)`.
            state: that of one mixture, or of several.
            num_weights: number of the weights under each mixture.
        """
        hyperpriors = self.options.zero, self.options.others
        alphas = [
            [h.alpha(size) for h in hyperpriors] for size in np.ravel(num_weights).tolist()
        ]
        # The zero component has a hyperprior of its own, all others have one together.
        kinds = np.minimum(np.arange(self.num_components), 1)
        losses = gamma_negative_log_prob(
            mixture.log_precisions,
            np.asarray(alphas)[:, kinds],
            ops.take(state.target_stddevs, kinds, axis=-1),
        )
        loss = ops.sum(ops.where(state.alive > 0.5, losses, 0.0))
        if isinstance(self.zero_proportion, BetaHyperprior):
            log_zero = mixture.log_proportions[..., 0]
            log_rest = ops.log(-ops.expm1(log_zero))
            loss += ops.sum(self.zero_proportion.negative_log_prob(log_zero, log_rest))
        return loss


def _at_rate(trained: Tensor, rates: NDArray[np.float32]) -> Tensor:
    """theta = r v in value, with the gradient of theta handed on to v unscaled."""
    value = ops.cast(trained, "float32")
    return value + ops.stop_gradient(ops.convert_to_tensor(rates - 1.0) * value)


def _averaged(means: Tensor, members: Tensor) -> Tensor:
    """Means, with a gradient that is the average over their members, not the sum.

    So a mean moves about as far as its members do, whatever their number: with SGD it would
    otherwise move thousands of times as far. Optimizers that normalise gradients see no
    difference.
    """
    share = 1.0 / ops.maximum(members, 1.0)
    return share * means + ops.stop_gradient((1.0 - share) * means)
