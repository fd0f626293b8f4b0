"""Hyperpriors: priors on the precisions and the zero proportion of the mixture.

By default the Gamma hyperpriors hold the components' widths near the assignment width. In the
paper the widths shrink as weights gather: then the zero component's gradient fades a fraction
of a cluster away, weights grow back, and a larger tau no longer makes the network sparser. A
wide zero component still acts at the distance at which the assignment decides.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike
from scipy.special import gammaln

from tfmot_sws.arguments import check_numbers

Tensor = Any


@dataclasses.dataclass(frozen=True)
class GammaHyperprior:
    """Gamma(alpha, beta) on a precision lambda, given by its strength and its width.

    The mean precision alpha / beta is 1 / sigma^2 at every strength, so that a width can
    be annealed without a change of strength. A hyperprior of fixed alpha is lost against
    a million weights; so the strength is given in relation to their number.

    Args:
        strength: > 0; the hyperprior weighs as much as `strength` times all shared
            weights: alpha = 1 + strength * W / 2.
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
        check_numbers(strength=self.strength, stddev=self.stddev)
        if not self.strength > 0 or not math.isfinite(self.strength):
            raise ValueError(f"strength must be finite and above 0; received {self.strength}.")
        if not self.stddev > 0 or not math.isfinite(self.stddev):
            raise ValueError(f"stddev must be finite and above 0; received {self.stddev}.")

    def alpha(self, num_weights: int) -> float:
        """alpha for this many shared weights.

        Example:
            >>> GammaHyperprior(strength=1.0, stddev=0.1).alpha(1000)
            501.0
        """
        return 1.0 + 0.5 * self.strength * num_weights


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
        check_numbers(alpha=self.alpha, beta=self.beta)
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
        """-log Beta(pi_0) from log pi_0 and log(1 - pi_0), of their shape."""
        log_norm = (
            math.lgamma(self.alpha + self.beta)
            - math.lgamma(self.alpha)
            - math.lgamma(self.beta)
        )
        return -log_norm - (self.alpha - 1.0) * log_zero - (self.beta - 1.0) * log_rest


def gamma_negative_log_prob(log_precisions: Tensor, alpha: ArrayLike, stddev: Tensor) -> Tensor:
    """-log Gamma(lambda; alpha, beta = alpha sigma^2), element by element.

    Args:
        log_precisions: gamma = log lambda, any shape.
        alpha: >= 1, float64; of a shape that broadcasts against that of `log_precisions`.
        stddev: sigma in the units of the weights, likewise.
    """
    # With u = log(lambda sigma^2) no two large terms cancel in float32, however large alpha.
    u = log_precisions + 2.0 * ops.log(stddev)
    alpha = np.asarray(alpha, np.float64)
    log_norm = alpha * np.log(alpha) - gammaln(alpha) - alpha
    factor, offset = (ops.convert_to_tensor(x, "float32") for x in (alpha, log_norm))
    return factor * (ops.expm1(u) - u) + log_precisions - offset
