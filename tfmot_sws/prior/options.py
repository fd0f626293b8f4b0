"""Settings of the prior."""

from __future__ import annotations

import dataclasses
from typing import Final

from tfmot_sws.arguments import check_kind, check_numbers
from tfmot_sws.prior.hyperpriors import GammaHyperprior


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """Learning rates of the mixture as multiples of the optimizer's own rate.

    They hold under any optimizer: plain SGD, momentum, Adam and others. A rate schedule
    given to the optimizer moves all of them together. Operations on a variable as a whole,
    such as clipping by norm, apply to the three together, since one variable holds them.

    Args:
        means: of mu_k. They take four times their gradient at every fourth step, none at
            the others. Under SGD, with momentum or without, that is the same on average;
            optimizers that normalise gradients, such as Adam, move a mean half as far as
            this multiple says.
        log_precisions: of gamma_k = log lambda_k.
        log_proportions: of rho_k, and of pi_0's logit when it is learned.

    References:
        Ullrich et al. 2017, appendix A: 5e-4 for the weights, 1e-4, 3e-3 and 3e-3 for
        these three.
    """

    means: float = 0.3
    log_precisions: float = 6.0
    log_proportions: float = 6.0

    def __post_init__(self) -> None:
        check_numbers(**dataclasses.asdict(self))
        for name, rate in dataclasses.asdict(self).items():
            if not 0 < rate < float("inf"):
                raise ValueError(
                    f"The learning rate multiple of {name} must be above 0 and finite; "
                    f"received {rate}."
                )


@dataclasses.dataclass(frozen=True)
class PriorOptions:
    """Settings of the prior that seldom need a change.

    All widths are in multiples of the root mean square of the shared weights, as it was at
    wrapping. The paper's absolute numbers (sigma = 0.02, means over +-0.6) fit LeNets;
    relative ones fit networks of any scale.

    Args:
        initial_stddev: width of every component at the start, > 0.
        zero: hyperprior on the zero component's precision. By default both hyperpriors
            hold all widths near the assignment width and weigh more than the weights do.
            In the paper widths shrink as weights gather; the zero component then attracts
            only weights that are nearly zero already, others grow back, and neither more
            epochs nor a larger tau makes the network sparser. With wide components the
            attraction lasts at the very distance at which the assignment decides, and tau
            trades size against accuracy monotonically.
        others: hyperprior on the other components' precisions.
        assignment_width: the widest that s may be, the width by which a tensor's weights
            are assigned to components, in multiples of its own root mean square; larger
            values set more weights to zero. 0 takes each component's own width, the
            paper's rule, under which the narrow zero component takes in hardly more than
            what is zero already.
        width_gain: kappa > 0. Below that limit s^2 = kappa tau / (N F), F being the
            tensor's sensitivity: a nat saved on a weight's index may cost kappa tau / N
            nats of the error, as its curvature foresees them. Above 1, because training
            repairs most of what the curvature foresees.
        least_zero_proportion: in [0, 1), the smallest pi_0 where proportions follow usage.
        learning_rates: of the mixture's parameters.
        renewal_period: steps from one evaluation of the prior's gradient to the next, >= 1;
            in between it is held. 1 evaluates at every step. Trainings of few steps have a
            shorter period, for a hundred evaluations at least.

    Raises:
        ValueError: when a width or the period is out of range.
    """

    initial_stddev: float = 1.3
    zero: GammaHyperprior = GammaHyperprior(strength=5.0, stddev=1.3)
    others: GammaHyperprior = GammaHyperprior(strength=5.0, stddev=1.3)
    assignment_width: float = 1.3
    width_gain: float = 5.0
    least_zero_proportion: float = 0.5
    learning_rates: LearningRates = LearningRates()
    renewal_period: int = 16

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            check_kind(name, getattr(self, name), kind, f"a {kind.__name__}")
        check_numbers(**{name: getattr(self, name) for name in _NUMBERS})
        if not 0 < self.initial_stddev < float("inf"):
            raise ValueError(
                f"initial_stddev must be above 0 and finite; received {self.initial_stddev}."
            )
        if not 0 <= self.assignment_width < float("inf"):
            raise ValueError(
                "assignment_width must be at least 0 and finite; received "
                f"{self.assignment_width}."
            )
        if not 0 < self.width_gain < float("inf"):
            raise ValueError(
                f"width_gain must be above 0 and finite; received {self.width_gain}."
            )
        if not 0 <= self.least_zero_proportion < 1:
            raise ValueError(
                "least_zero_proportion must lie in [0, 1); received "
                f"{self.least_zero_proportion}."
            )
        if not isinstance(self.renewal_period, int) or self.renewal_period < 1:
            raise ValueError(
                "renewal_period must be an integer of at least 1; received "
                f"{self.renewal_period!r}."
            )


_KINDS: Final = {
    "zero": GammaHyperprior,
    "others": GammaHyperprior,
    "learning_rates": LearningRates,
}
_NUMBERS: Final = ("initial_stddev", "assignment_width", "width_gain", "least_zero_proportion")
