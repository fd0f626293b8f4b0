"""A mixture's density and its derivatives by the defining formulas, in tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

# Log-proportion of a component that has died: exp() of it is 0, its gradient too.
DEAD = -1e30
# More than float32 rounds a number by, relative to it.
_ROUNDINGS = 4e-7

Tensor = Any


class MixtureTensors(NamedTuple):
    """The mixture in the form that training reads, each of shape (K,), float32.

    Those of several mixtures have a leading axis.

    means mu_k; log_precisions gamma_k = -2 log sigma_k; log_proportions log pi_k, which
    is `DEAD` for components that have died.
    """

    means: Tensor
    log_precisions: Tensor
    log_proportions: Tensor

    def as_columns(self) -> MixtureTensors:
        """Each field of shape (K, 1), against points of shape (G,).

        Sums over the components then run along the points, which vectorises.
        """
        return MixtureTensors(*(ops.expand_dims(field, -1) for field in self))

    @property
    def alive(self) -> Tensor:
        """Whether each component is alive; boolean, of the fields' shape."""
        return self.log_proportions > 0.5 * DEAD


def negative_log_prob(points: Tensor, mixture: MixtureTensors) -> Tensor:
    """-log p(w) at points of shape (G,)."""
    return -_log_sum_and_responsibilities(_component_log_prob(points, mixture))[0]


class Derivatives(NamedTuple):
    """f(w) = -log p(w), f'(w) and f''(w) at points of shape (G,).

    responsibilities: the components' responsibilities, (K, G).
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor
    responsibilities: Tensor


def derivatives(points: Tensor, mixture: MixtureTensors) -> Derivatives:
    """f(w) = -log p(w) and its derivatives at points of shape (G,)."""
    log_prob, responsibilities = _log_sum_and_responsibilities(
        _component_log_prob(points, mixture)
    )
    means, log_precisions, _ = mixture.as_columns()
    precisions = ops.exp(log_precisions)
    component_slopes = precisions * (points - means)
    slope = ops.sum(responsibilities * component_slopes, axis=0)
    curvature = ops.sum(
        responsibilities * (precisions - ops.square(_from_mean(component_slopes, slope))),
        axis=0,
    )
    return Derivatives(-log_prob, slope, curvature, responsibilities)


def mixture_gradients(
    points: Tensor,
    mixture: MixtureTensors,
    at: Derivatives,
    by_values: Tensor,
    by_slopes: Tensor,
) -> MixtureTensors:
    """Gradients of sum_g a_g f(w_g) + b_g f'(w_g) in the mixture's fields.

    Args:
        points: w_g, shape (G,).
        mixture: the mixture's tensors.
        at: `derivatives(points, mixture)`. Its responsibilities spare the exponentials that
            automatic differentiation would compute again.
        by_values: a_g, shape (G,).
        by_slopes: b_g, shape (G,).
    """
    means, log_precisions, _ = mixture.as_columns()
    precisions = ops.exp(log_precisions)
    distance = points - means
    component_slopes = precisions * distance
    by_component_slopes = at.responsibilities * by_slopes
    by_log_prob = (
        by_component_slopes * _from_mean(component_slopes, at.slope)
        - at.responsibilities * by_values
    )
    in_log_precisions = (
        by_log_prob * (0.5 - 0.5 * component_slopes * distance)
        + by_component_slopes * component_slopes
    )
    return MixtureTensors(
        ops.sum(by_log_prob * component_slopes - by_component_slopes * precisions, axis=-1),
        ops.sum(in_log_precisions, axis=-1),
        ops.sum(by_log_prob, axis=-1),
    )


def _from_mean(component_slopes: Tensor, slope: Tensor) -> Tensor:
    """Difference of each component's slope from their mean, which is f'.

    Far from all components one rounding of f', squared, would outweigh the precisions.
    """
    off = component_slopes - slope
    return ops.sign(off) * ops.relu(ops.abs(off) - _ROUNDINGS * ops.abs(slope))


def _component_log_prob(points: Tensor, mixture: MixtureTensors) -> Tensor:
    """log(pi_k N(w; mu_k, 1 / lambda_k)), shape (K, G)."""
    means, log_precisions, log_proportions = mixture.as_columns()
    log_norm = log_proportions + 0.5 * (log_precisions - float(np.log(2 * np.pi)))
    return log_norm - 0.5 * ops.exp(log_precisions) * ops.square(points - means)


def _log_sum_and_responsibilities(joint: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_k exp(joint_k), shape (G,), and each component's share of the sum, (K, G).

    XLA computes `joint` again in each loop that reads it, and may round it differently.
    Far from all components one rounding is more than exp() can bear. So the shift is a few
    roundings below the largest, and no term grows beyond e.
    """
    largest = ops.stop_gradient(ops.max(joint, axis=0))
    shift = largest - _ROUNDINGS * ops.abs(largest)
    above = joint - shift
    terms = ops.exp(above - ops.stop_gradient(ops.relu(above - 1.0)))
    total = ops.sum(terms, axis=0)
    return shift + ops.log(total), terms / total
