"""Lays the first mixture over the range of the pretrained weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.uniform import grid_integers

# The outermost means stand at this quantile of |w|: a few outliers among a million
# weights must not pull the components away from the rest.
_RANGE_QUANTILE = 0.9999
# Of the distances between means, tried one after the other.
_POWERS = (1.0, 1.5, 2.0, 3.0, 4.0)
# Of the range that a grid covers, tried likewise: all its distances are equal.
_COVERED = (1.0, 0.7, 0.5, 0.35, 0.25)


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
    least_bits: float = 0.0,
    codebook: str = "free",
) -> GaussianMixture:
    """Means evenly over the range of the weights on both sides of the zero component.

    Where that tells too few weights apart, because most are small, means lie the closer the
    smaller they are; those of a uniform codebook cover less of the range.

    Args:
        weights: pretrained tensors, at least one of them not empty.
        num_components: K >= 2, the zero component included.
        stddev: width of every component in the units of the weights.
        zero_proportion: pi_0 in (0, 1); the others share the rest evenly.
        least_bits: the entropy, in bits a weight, that indices of the nearest means are to
            have, as far as it can be had.
        codebook: "free" or "uniform".

    References:
        Ullrich et al. 2017, section 5.1: means distributed evenly over the range of the
        pretrained weights.
    """
    values = np.concatenate([np.asarray(w).reshape(-1) for w in weights])
    extent = float(np.quantile(np.abs(values), _RANGE_QUANTILE)) or 1.0
    others = num_components - 1
    for steps in _grids(others) if codebook == "uniform" else _ladders(others):
        means = extent * steps
        if not least_bits or _nearest_entropy(values, means) >= least_bits:
            break
    proportions = np.full(others, (1.0 - zero_proportion) / others)
    return GaussianMixture(
        np.concatenate([[0.0], means]),
        np.full(num_components, stddev),
        np.concatenate([[zero_proportion], proportions]),
    )


def _ladders(others: int) -> Iterator[NDArray[np.floating]]:
    """Free means from coarse to fine, in units of the range."""
    return (_ladder(others, power) for power in _POWERS)


def _grids(others: int) -> Iterator[NDArray[np.floating]]:
    """Means of a uniform codebook from coarse to fine, in units of the range."""
    integers = grid_integers(others + 1)
    return (share * integers / integers[-1] for share in _COVERED)


def _ladder(others: int, power: float) -> NDArray[np.floating]:
    """Steps from -1 to 1 without 0, their distances to it being powers of even ones."""
    below = others // 2
    steps = np.concatenate(
        [
            -np.arange(below, 0, -1) / max(below, 1),
            np.arange(1, others - below + 1) / (others - below),
        ]
    )
    return np.sign(steps) * np.abs(steps) ** power


def _nearest_entropy(values: NDArray[np.floating], means: NDArray[np.floating]) -> float:
    """Entropy, in bits, of which of the means or zero is the nearest to each value."""
    ordered = np.sort(np.append(means, 0.0))
    nearest = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, values)
    shares = np.bincount(nearest) / values.size
    return float(-np.sum(shares * np.log2(np.maximum(shares, 1e-30))))
