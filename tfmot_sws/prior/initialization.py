"""Lays the first mixture over the range of the pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.prior.mixture import GaussianMixture

# The outermost means stand at this quantile of |w|: a few outliers among a million
# weights must not pull the components away from the rest.
_RANGE_QUANTILE = 0.9999


def root_mean_square(weights: Sequence[NDArray[np.floating]]) -> float:
    """The unit in which widths are given: sqrt(mean(w^2)) over all tensors, or 1 for zeros."""
    total = sum(float(np.sum(np.square(w, dtype=np.float64))) for w in weights)
    return float(np.sqrt(total / sum(w.size for w in weights))) or 1.0


def initial_mixture(
    weights: Sequence[NDArray[np.floating]],
    num_components: int,
    *,
    stddev: float,
    zero_proportion: float,
) -> GaussianMixture:
    """Means evenly over the range of the weights on both sides of the zero component.

    Args:
        weights: pretrained tensors, at least one of them not empty.
        num_components: K >= 2, the zero component included.
        stddev: width of every component in the units of the weights.
        zero_proportion: pi_0 in (0, 1); the others share the rest evenly.

    References:
        Ullrich et al. 2017, section 5.1: means distributed evenly over the range of the
        pretrained weights.
    """
    magnitudes = np.concatenate([np.abs(w).reshape(-1) for w in weights])
    extent = float(np.quantile(magnitudes, _RANGE_QUANTILE)) or 1.0
    others = num_components - 1
    below = others // 2
    means = np.concatenate(
        [
            -extent * np.arange(below, 0, -1) / max(below, 1),
            extent * np.arange(1, others - below + 1) / (others - below),
        ]
    )
    proportions = np.full(others, (1.0 - zero_proportion) / others)
    return GaussianMixture(
        np.concatenate([[0.0], means]),
        np.full(num_components, stddev),
        np.concatenate([[zero_proportion], proportions]),
    )
