"""The trainable mixture: owns the parametrisation that optimizers see."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.arguments import check_integer, check_kind, check_numbers
from tfmot_sws.backend.scalars import to_float
from tfmot_sws.prior.assignment import Part, assign, count
from tfmot_sws.prior.density import DEAD, MixtureTensors
from tfmot_sws.prior.density_table import total_negative_log_prob
from tfmot_sws.prior.form import MixtureForm, MixtureState
from tfmot_sws.prior.hyperpriors import BetaHyperprior, GammaHyperprior
from tfmot_sws.prior.initialization import initial_mixture, root_mean_square
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.options import LearningRates, PriorOptions
from tfmot_sws.prior.uniform import check_codebook, reach_of

Tensor = Any

# Share of the way that the usage goes to what is counted, at each count.
_USAGE_STEP = 0.5
_MAX_TENSORS = 1 << 20
# Stands in for a proportion of 0, whose logarithm training could not leave again.
_LEAST_PROPORTION = 1e-30


@keras.saving.register_keras_serializable(package="tfmot_sws")
class GaussianMixturePrior(keras.layers.Layer):
    """A trainable Gaussian mixture over scalar weights, with its hyperpriors.

    Components live in fixed slots 0..K-1, slot 0 being the zero component. Slots whose
    component has died or was merged into another stay, with `alive` at 0, so that
    neither shapes nor compiled steps change during training.

    Each trained parameter theta is held as v = theta / r, r being its learning rate
    multiple, and takes the gradient of theta as if it were that of v. An update of v by
    any optimizer then moves theta by r times what that optimizer would have done, so that
    a user compiles one optimizer as always.

    Args:
        num_components: K >= 2.
        zero_proportion: pi_0 in (0, 1), or a `BetaHyperprior` to learn it; `None` has all
            proportions follow the usage.
        options: widths, hyperpriors and learning rates.
        num_tensors: number of the tensors under this mixture, T >= 1.
        mean_bits: significant bits of the means, or of the step of a grid; `None` for all of
            float32. The gradient passes straight through the rounding.
        codebook: "free", or "uniform" for means on a grid: mu_k is an integer of its slot,
            at most 7 in magnitude, times a step that is trained.

    Attributes:
        form: how the trained numbers become a mixture.
        trained: (V,), the one trained variable, laid out as `form.by_field` splits it.
        alive: (K,), 1 for a slot whose component lives, else 0.
        members: (K,), number of weights in each component, as it was lately.
        log_usage: (K,), log pi_k where proportions follow the usage.
        scale: the root mean square of all weights at wrapping.
        tensor_scales: (T,), that of each tensor.
        sensitivities: (T,), the mean squared gradient of one example's error loss over the
            weights of each tensor; 0 while unknown.
        widths: (T,), the assignment width of each tensor, in the units of the weights.
        narrowing: (T,), factor on the widths that keeps kernels from dying, 1 as a rule.
        kernels: of each tensor whether it is a kernel, which must not become all zero; where
            it is empty, those of two axes and more are.

    Raises:
        ValueError: when an argument is out of range.

    References:
        Ullrich et al. 2017, sections 3 and 4.
    """

    def __init__(
        self,
        num_components: int = 16,
        *,
        zero_proportion: float | BetaHyperprior | None = None,
        options: PriorOptions | None = None,
        num_tensors: int = 1,
        mean_bits: int | None = None,
        codebook: str = "free",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype="float32", autocast=False)
        _check_components(num_components)
        check_codebook(codebook, num_components)
        _check_zero_proportion(zero_proportion)
        options = PriorOptions() if options is None else options
        check_kind("options", options, PriorOptions, "PriorOptions")
        check_integer("num_tensors", num_tensors, 1, _MAX_TENSORS)
        self.form = MixtureForm(num_components, zero_proportion, options, mean_bits, codebook)
        self.num_tensors = num_tensors
        self.kernels: tuple[bool, ...] = ()
        self._add_variables()
        self.built = True

    def _add_variables(self) -> None:
        # One variable holds all, because an optimizer's update is some fifteen operations a
        # variable, whatever its size.
        self.trained = self.add_weight(
            name="mixture", shape=self.form.rates.shape, initializer="zeros", autocast=False
        )
        self.alive = self._state("alive", np.ones(self.num_components))
        self.members = self._state("members", np.ones(self.num_components))
        uniform = np.full(self.num_components, -np.log(self.num_components))
        self.log_usage = self._state("log_usage", uniform)
        self.scale = self._state("scale", 1.0)
        self.tensor_scales = self._state("tensor_scales", np.ones(self.num_tensors))
        self.sensitivities = self._state("sensitivities", np.zeros(self.num_tensors))
        zero, rest = self.options.zero.stddev, self.options.others.stddev
        self.target_stddevs = self._state("target_stddevs", [zero, rest])
        widths = np.full(self.num_tensors, self.options.assignment_width)
        self.widths = self._state("widths", widths)
        self.narrowing = self._state("narrowing", np.ones(self.num_tensors))

    @property
    def num_components(self) -> int:
        """K."""
        return self.form.num_components

    @property
    def zero_proportion(self) -> float | BetaHyperprior | None:
        """As given."""
        return self.form.zero_proportion

    @property
    def options(self) -> PriorOptions:
        """As given, or the defaults."""
        return self.form.options

    def _state(self, name: str, value: Any) -> keras.Variable:
        value = np.asarray(value, np.float32)
        return self.add_weight(
            name=name,
            shape=value.shape,
            initializer=lambda _, dtype=None: ops.convert_to_tensor(value, dtype),
            trainable=False,
            aggregation="only_first_replica",
            autocast=False,
        )

    def state(self) -> MixtureState:
        """The present values of the variables on which the mixture depends."""
        return MixtureState(*(getattr(self, name).value for name in MixtureState._fields))

    def tensors(self) -> MixtureTensors:
        """The mixture as tensors, differentiable in the trained variable."""
        return self.form.tensors(self.state())

    def complexity_loss(self, weights: Sequence[Tensor]) -> Tensor:
        """-sum_i log p(w_i) - sum_k log Gamma(lambda_k) - log Beta(pi_0), a scalar.

        It is a negative log-density and may be below zero.

        Args:
            weights: float32 tensors of any shapes.
        """
        state, weights = self.state(), list(weights)
        mixture = self.form.tensors(state)
        num_weights = sum(int(np.prod(w.shape)) for w in weights)
        of_hyperpriors = self.form.hyperprior_loss(mixture, state, num_weights)
        return total_negative_log_prob(weights, mixture) + of_hyperpriors

    def assign(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Component slot of every weight of each tensor, int32, by the rule of `options`."""
        return assign(self.part(weights))

    def count(self, weights: Sequence[Tensor]) -> Tensor:
        """Number of each tensor's weights in each component, float32, (T, K).

        Args:
            weights: float32 tensors, one for each of T.
        """
        return count([self.part(weights)])[0]

    def part(self, weights: Sequence[Tensor], factors: Sequence[Tensor] | None = None) -> Part:
        """What the assignment of weights depends on.

        Args:
            weights: float32 tensors, one for each of T.
            factors: on each assignment width; `None` for 1.
        """
        widths = self.assignment_widths()
        if factors is not None and widths:
            widths = [f * width for f, width in zip(factors, widths, strict=True)]
        return Part(weights, self.tensors(), widths)

    def usage_after(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """`members` and `log_usage` as they are once these counts have been seen.

        Args:
            counts: number of weights in each component, (K,).
        """
        members = self.members.value
        members = members + _USAGE_STEP * (counts - members)
        # Half a count lets a component that is empty for a while win weights again.
        return members, self._log_usage(ops.where(self.alive.value > 0.5, members + 0.5, 0.0))

    def _log_usage(self, amounts: Tensor) -> Tensor:
        """log pi_k of amounts (K,), pi_0 being no less than its least; `DEAD` where 0."""
        zero = ops.maximum(amounts[0] / ops.sum(amounts), self.options.least_zero_proportion)
        others = (1.0 - zero) * amounts[1:] / ops.maximum(ops.sum(amounts[1:]), 1e-30)
        shares = ops.concatenate([ops.reshape(zero, (1,)), others])
        logs = ops.log(ops.maximum(shares, _LEAST_PROPORTION))
        return ops.where(shares > 0.0, logs, DEAD)

    def narrow(self, factor: NDArray[np.floating]) -> None:
        """Multiplies the assignment widths by (T,) factors, up to what they were at first."""
        before = ops.convert_to_numpy(self.narrowing)
        narrowing = np.minimum(before * factor, 1.0)
        self.narrowing.assign(narrowing.astype(np.float32))
        widths = ops.convert_to_numpy(self.widths) * (narrowing / before)
        self.widths.assign(widths.astype(np.float32))

    def assignment_widths(self) -> list[Tensor]:
        """The assignment width of each tensor, or none for each component's own."""
        return ops.unstack(self.widths.value) if self.options.assignment_width else []

    def fit_initial(
        self, weights: Sequence[NDArray[np.floating]], least_bits: float = 0.0
    ) -> None:
        """Lays the first mixture over the range of the pretrained weights.

        Args:
            weights: arrays, at least one of them not empty.
            least_bits: entropy that the first assignment is to have; see `initial_mixture`.
        """
        scale = root_mean_square(weights)
        self.scale.assign(scale)
        # Biases begin at zero as a rule, which says nothing about their scale.
        scales = [root_mean_square([w]) if w.ndim > 1 else scale for w in weights]
        self.tensor_scales.assign(np.asarray(scales, np.float32))
        self.set_widths()
        zero = self.zero_proportion
        if zero is None:
            zero = max(self.options.least_zero_proportion, 1 / self.num_components)
        mixture = initial_mixture(
            weights,
            self.num_components,
            stddev=self.options.initial_stddev * scale,
            zero_proportion=zero.mean if isinstance(zero, BetaHyperprior) else zero,
            least_bits=least_bits,
            codebook=self.form.codebook,
        )
        self.set_mixture(mixture, np.arange(self.num_components))

    def set_widths(
        self, stddev: float = 1.0, assignment: float = 1.0, price: float = 0.0
    ) -> None:
        """Sets the widths of the hyperpriors and of the assignment.

        Args:
            stddev: factor on the hyperpriors' widths.
            assignment: factor on the assignment widths.
            price: tau / N, what a nat of an index costs in nats of an example's error. 0
                where sensitivities do not count.
        """
        options, scale = self.options, to_float(self.scale)
        targets = [options.zero.stddev, options.others.stddev]
        self.target_stddevs.assign(np.asarray(targets, np.float32) * (stddev * scale))
        widest = options.assignment_width * ops.convert_to_numpy(self.tensor_scales)
        sensitivities = ops.convert_to_numpy(self.sensitivities)
        with np.errstate(divide="ignore", invalid="ignore"):
            widths = np.sqrt(options.width_gain * price / sensitivities)
        known = (sensitivities > 0) & (price > 0)
        widths = np.where(known, np.minimum(widths, widest), widest)
        narrowing = ops.convert_to_numpy(self.narrowing)
        self.widths.assign((assignment * narrowing * widths).astype(np.float32))

    @property
    def is_finite(self) -> bool:
        """Whether it is a mixture with finite widths, as it is until a training diverges."""
        if not np.all(np.isfinite(ops.convert_to_numpy(self.trained))):
            return False
        # Trained values that are finite may be precisions beyond all numbers.
        means, log_precisions, _ = self._living_fields()
        with np.errstate(over="ignore"):
            stddevs = np.exp(-0.5 * log_precisions)
        return bool(np.all(np.isfinite(means) & np.isfinite(stddevs) & (stddevs > 0)))

    @property
    def alive_slots(self) -> NDArray[np.intp]:
        """Slots whose component is alive, ascending; the first is 0."""
        return np.flatnonzero(ops.convert_to_numpy(self.alive) > 0.5)

    def mixture(self) -> GaussianMixture:
        """The living components as an immutable value, in the order of their slots."""
        means, log_precisions, log_proportions = self._living_fields()
        proportions = np.exp(log_proportions)
        return GaussianMixture(
            means, np.exp(-0.5 * log_precisions), proportions / proportions.sum()
        )

    def _living_fields(self) -> list[NDArray[np.float64]]:
        slots = self.alive_slots
        return [
            ops.convert_to_numpy(field)[slots].astype(np.float64) for field in self.tensors()
        ]

    def set_mixture(self, mixture: GaussianMixture, slots: NDArray[np.intp]) -> None:
        """Puts the components of a mixture into the given slots; other slots die.

        Args:
            mixture: at most K components.
            slots: distinct slots, one a component, ascending; the first is 0.
        """
        inner = slots[1:] - 1
        alive = np.zeros(self.num_components, np.float32)
        alive[slots] = 1.0
        self.alive.assign(alive)
        shares = np.zeros(self.num_components)
        shares[slots] = mixture.mixing_proportions
        self.log_usage.assign(self._log_usage(ops.convert_to_tensor(shares, "float32")))
        form = self.form
        trained = ops.convert_to_numpy(self.trained) * form.rates
        fields = dict(zip(form.sizes, np.split(trained, form.ends), strict=True))
        log_proportions = np.log(np.maximum(mixture.mixing_proportions, _LEAST_PROPORTION))
        if not form.is_uniform:
            fields["means"][inner] = mixture.means[1:]
        elif inner.size:
            integers = form.integers
            fields["reach"][:] = reach_of(mixture.means[1:], integers[inner], integers[-1])
        fields["log_precisions"][slots] = np.log(mixture.precisions)
        if "log_proportions" in fields:
            fields["log_proportions"][inner] = log_proportions[1:]
        if "zero_logit" in fields:
            rest = max(1.0 - mixture.mixing_proportions[0], _LEAST_PROPORTION)
            fields["zero_logit"][:] = log_proportions[0] - np.log(rest)
        self.trained.assign(trained / form.rates)

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` builds an equal, untrained prior."""
        zero = self.zero_proportion
        return {
            "num_components": self.num_components,
            "zero_proportion": dataclasses.asdict(zero)
            if isinstance(zero, BetaHyperprior)
            else zero,
            "options": dataclasses.asdict(self.options),
            "num_tensors": self.num_tensors,
            "mean_bits": self.form.mean_bits,
            "codebook": self.form.codebook,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GaussianMixturePrior:
        """The inverse of `get_config`."""
        config = dict(config)
        options = dict(config.pop("options"))
        options["zero"] = GammaHyperprior(**options["zero"])
        options["others"] = GammaHyperprior(**options["others"])
        options["learning_rates"] = LearningRates(**options["learning_rates"])
        if isinstance(config["zero_proportion"], dict):
            config["zero_proportion"] = BetaHyperprior(**config["zero_proportion"])
        return cls(options=PriorOptions(**options), **config)


def _check_components(num_components: int) -> None:
    if not isinstance(num_components, int) or not 2 <= num_components <= 256:
        raise ValueError(
            "num_components must be an integer from 2 (the zero component and one other) "
            f"to 256; received {num_components!r}."
        )


def _check_zero_proportion(zero_proportion: float | BetaHyperprior | None) -> None:
    if zero_proportion is None or isinstance(zero_proportion, BetaHyperprior):
        return
    check_numbers(zero_proportion=zero_proportion)
    if not 0.0 < zero_proportion < 1.0:
        raise ValueError(
            "zero_proportion must lie strictly between 0 and 1, or be a BetaHyperprior "
            f"to learn it; received {zero_proportion}."
        )
