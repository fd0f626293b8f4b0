"""Hyperpriors: what is believed of the mixture before a weight is seen."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras import ops

Tensor = Any


@dataclasses.dataclass(frozen=True)
class GammaHyperprior:
    """Gamma(alpha, beta) on a precision lambda, given by its strength and its width.

    The mean precision alpha / beta is 1 / sigma^2 at every strength, so that a width can
    be annealed without a change of strength.

    Args:
        strength: alpha > 1; the hyperprior weighs as much as 2 alpha weights.
        stddev: sigma > 0, the width it pulls towards, in multiples of the root mean
            square of the shared weights.

    Raises:
        ValueError: when either is out of range.

    References:
        Ullrich et al. 2017, section 4.2 and appendix A.
    """

    strength: float
    stddev: float

    def __post_init__(self) -> None:
        if not self.strength > 1 or not math.isfinite(self.strength):
            raise ValueError(f"strength must be finite and above 1; received {self.strength}.")
        if not self.stddev > 0 or not math.isfinite(self.stddev):
            raise ValueError(f"stddev must be finite and above 0; received {self.stddev}.")


@dataclasses.dataclass(frozen=True)
class BetaHyperprior:
    """Beta(alpha, beta) on the zero component's proportion, which is then learned.

    Args:
        alpha: > 0; alpha - 1 counts as that many weights seen in the zero component.
        beta: > 0; beta - 1 counts as that many weights seen elsewhere.

    Raises:
        ValueError: when either is out of range.

    Example:
        >>> BetaHyperprior(990.0, 10.0).mean
        0.99
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not (0 < self.alpha < math.inf and 0 < self.beta < math.inf):
            raise ValueError(
                "alpha and beta must be finite and above 0; received "
                f"{self.alpha} and {self.beta}."
            )

    @property
    def mean(self) -> float:
        """Expected zero proportion, alpha / (alpha + beta)."""
        return self.alpha / (self.alpha + self.beta)

    def negative_log_prob(self, log_zero: Tensor, log_rest: Tensor) -> Tensor:
        """-log Beta(pi_0) from log pi_0 and log(1 - pi_0); a scalar."""
        log_norm = (
            math.lgamma(self.alpha + self.beta)
            - math.lgamma(self.alpha)
            - math.lgamma(self.beta)
        )
        return -log_norm - (self.alpha - 1.0) * log_zero - (self.beta - 1.0) * log_rest


def gamma_negative_log_prob(log_precisions: Tensor, strength: float, stddev: Tensor) -> Tensor:
    """-log Gamma(lambda; alpha, beta = alpha sigma^2), element by element.

    Args:
        log_precisions: gamma = log lambda, any shape.
        strength: alpha.
        stddev: sigma, a scalar tensor in the units of the weights.
    """
    rate = strength * ops.square(stddev)
    log_norm = strength * ops.log(rate) - math.lgamma(strength)
    return rate * ops.exp(log_precisions) - (strength - 1.0) * log_precisions - log_norm
