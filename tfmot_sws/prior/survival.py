"""Keeps kernels alive: none is assigned so few weights other than zero that nothing passes it.

A layer without any takes its whole network along: not even the gradient that could bring it
back comes through. The assignment width of such a kernel is narrowed until it keeps enough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.prior.uniform import grid_integers

Tensor = Any

# A width is narrowed to a thousandth at most: a still narrower one would let components win
# weights that have died.
_LEAST_NARROWING = 1e-3
# By how much a width is narrowed at a time, and how often the last stride is halved to find
# the widest that does.
_STRIDE, _HALVINGS = 2.0**-0.25, 4
# By how much it grows again from one count to the next.
USUAL_GROWTH: Final = 1 / _STRIDE


def least_weights(size: int) -> int:
    """How many weights other than zero the rule of assignment leaves a kernel.

    The root of their number: one for each unit, where a kernel is square.
    """
    return math.isqrt(size)


def _least_of_each(
    prior: GaussianMixturePrior, shapes: Sequence[tuple[int, ...]]
) -> NDArray[np.intp]:
    """How many weights other than zero each tensor keeps, (T,); 0 for those but kernels."""
    kernels = prior.kernels or [len(shape) > 1 for shape in shapes]
    return np.array(
        [k and least_weights(math.prod(s)) for k, s in zip(kernels, shapes, strict=True)]
    )


def counts_kept(
    prior: GaussianMixturePrior,
    counts: NDArray[np.floating],
    shapes: Sequence[tuple[int, ...]],
) -> NDArray[np.floating]:
    """Counts as they will be once `keep_alive` has narrowed what widths would let die.

    Args:
        prior: a mixture over T tensors.
        counts: number of weights in each component, (T, K).
        shapes: of the tensors.

    Returns:
        The counts, (T, K), with as many weights other than zero as each kernel keeps.
    """
    missing = _least_of_each(prior, shapes) - counts[:, 1:].sum(axis=1)
    missing = np.clip(missing, 0, counts[:, 0])
    kept = counts.copy()
    kept[:, 0] -= missing
    kept[np.arange(len(shapes)), 1 + counts[:, 1:].argmax(axis=1)] += missing
    return kept


def keep_alive(
    priors: Sequence[GaussianMixturePrior],
    weights: Sequence[Sequence[Tensor]],
    *,
    growth: float = 1.0,
    count: Callable[[], Sequence[Any]] | None = None,
) -> None:
    """Narrows the widths of kernels with too few weights other than zero.

    Args:
        priors: mixtures of which some kernel may need it.
        weights: float32 tensors, one for each of T, of each prior.
        growth: factor by which widths that were narrowed grow again first, at least 1, so
            that in time none is narrower than its kernel needs. With `math.inf` the result
            does not depend on how they were narrowed before, but takes longer.
        count: what `GaussianMixturePrior.count` gives for each prior, with widths as they
            are; `None` calls just that, which is slow.
    """
    count = count or (lambda: [p.count(w) for p, w in zip(priors, weights, strict=True)])
    for prior in priors:
        narrowing = ops.convert_to_numpy(prior.narrowing)
        prior.narrow(np.where(narrowing < 1.0, growth, 1.0))
    zeros = _narrow(priors, weights, count)
    for prior, tensors, of_prior in zip(priors, weights, zeros, strict=True):
        dead = ops.convert_to_numpy(fading(prior, of_prior, tensors, least=1))
        for tensor in np.flatnonzero(dead):
            values = ops.convert_to_numpy(tensors[int(tensor)])
            if prior.is_finite and np.all(np.isfinite(values)):
                _place_mean(prior, values)


def _narrow(
    priors: Sequence[GaussianMixturePrior],
    weights: Sequence[Sequence[Tensor]],
    count: Callable[[], Sequence[Any]],
) -> list[Any]:
    """Narrows until no kernel fades that can be helped; each prior's zeros (T,) afterwards."""

    def look() -> tuple[list[Any], list[NDArray[np.bool_]]]:
        zeros = [ops.convert_to_numpy(counts)[:, 0] for counts in count()]
        triples = zip(priors, zeros, weights, strict=True)
        return zeros, [ops.convert_to_numpy(fading(*triple)) for triple in triples]

    narrowed = [np.zeros(len(tensors), bool) for tensors in weights]
    while True:
        zeros, faded = look()
        found = [
            of_prior & _may_narrow(prior) for prior, of_prior in zip(priors, faded, strict=True)
        ]
        if not any(map(np.any, found)):
            break
        _narrow_those(priors, found, _STRIDE)
        narrowed = [one | other for one, other in zip(narrowed, found, strict=True)]
    # A whole stride may bring hundreds of weights back where few were needed.
    saved = [one & ~other for one, other in zip(narrowed, faded, strict=True)]
    if any(map(np.any, saved)):
        zeros = _widen_again(priors, saved, zeros, look)
    return zeros


def _widen_again(
    priors: Sequence[GaussianMixturePrior],
    saved: Sequence[NDArray[np.bool_]],
    zeros: list[Any],
    look: Callable[[], tuple[list[Any], list[NDArray[np.bool_]]]],
) -> list[Any]:
    """Gives back what kernels do not need of the last stride; each prior's zeros (T,).

    Args:
        priors: mixtures.
        saved: which of each mixture's tensors were narrowed, and do not fade any more.
        zeros: number of zeros in each tensor.
        look: gives the number of zeros with widths as they are, and which tensors fade.
    """
    stride = _STRIDE
    for _ in range(_HALVINGS):
        stride = math.sqrt(stride)
        _narrow_those(priors, saved, 1 / stride)
        wider, faded = look()
        lost = [one & other for one, other in zip(saved, faded, strict=True)]
        _narrow_those(priors, lost, stride)
        zeros = [
            np.where(back, before, after)
            for back, before, after in zip(lost, zeros, wider, strict=True)
        ]
    return zeros


def _narrow_those(
    priors: Sequence[GaussianMixturePrior], chosen: Sequence[NDArray[np.bool_]], factor: float
) -> None:
    """Multiplies the widths of chosen tensors of each mixture by a factor."""
    for prior, tensors in zip(priors, chosen, strict=True):
        if tensors.any():
            prior.narrow(np.where(tensors, factor, 1.0))


def needs_care(prior: GaussianMixturePrior, zeros: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Whether `keep_alive` has anything to do; a scalar. See `fading`."""
    return ops.logical_or(
        ops.any(fading(prior, zeros, weights)), ops.any(ops.less(prior.narrowing.value, 1.0))
    )


def fading(
    prior: GaussianMixturePrior, zeros: Tensor, weights: Sequence[Tensor], *, least: Any = None
) -> Tensor:
    """Which tensors are kernels with too few weights other than zero, (T,).

    Args:
        prior: the mixture of these weights.
        zeros: number of zeros in each tensor as assigned, (T,).
        weights: the tensors as they are trained.
        least: how many a kernel must keep, where it is trained to have as many;
            `None`: as `least_weights` says.
    """
    shapes = [tuple(w.shape) for w in weights]
    must_keep = _least_of_each(prior, shapes)
    if least is not None:
        must_keep = np.minimum(must_keep, least)
    sizes = [math.prod(shape) for shape in shapes]
    trained = [ops.sum(ops.cast(ops.not_equal(w, 0), "float32")) for w in weights]
    bounds = ops.minimum(ops.convert_to_tensor(must_keep, "float32"), ops.stack(trained))
    others = ops.convert_to_tensor(sizes, "float32") - ops.convert_to_tensor(zeros, "float32")
    return ops.less(others, bounds)


def _may_narrow(prior: GaussianMixturePrior) -> NDArray[np.bool_]:
    return ops.convert_to_numpy(prior.narrowing) > _LEAST_NARROWING


def _place_mean(prior: GaussianMixturePrior, weights: NDArray[np.floating]) -> None:
    """Moves the component nearest to a tensor's largest weight onto it."""
    largest = float(weights.flat[np.abs(weights).argmax()])
    if prior.form.is_uniform:
        _place_on_grid(prior, largest)
        return
    slots, mixture = prior.alive_slots, prior.mixture()
    if slots.size == 1:
        slots = np.array([0, 1])
        pair, halves = np.array([0.0, largest]), np.array([0.5, 0.5])
        mixture = GaussianMixture(pair, np.repeat(mixture.stddevs, 2), halves)
    means = mixture.means.copy()
    means[1 + np.abs(means[1:] - largest).argmin()] = largest
    prior.set_mixture(dataclasses.replace(mixture, means=means), slots)


def _place_on_grid(prior: GaussianMixturePrior, largest: float) -> None:
    """Revives the slot nearest to a weight; a grid too coarse for it becomes finer."""
    integers = grid_integers(prior.num_components)
    means = ops.convert_to_numpy(prior.tensors().means)[1:]
    nearest = int(np.abs(means - largest).argmin())
    if abs(means[nearest] - largest) >= abs(largest):
        nearest = int(np.flatnonzero(integers == 1)[0])
        means = integers * largest
    slots, mixture = prior.alive_slots, prior.mixture()
    stddevs = np.full(prior.num_components, mixture.stddevs[0])
    shares = np.zeros(prior.num_components)
    stddevs[slots], shares[slots] = mixture.stddevs, mixture.mixing_proportions
    slot = nearest + 1
    if slot not in slots:
        slots = np.union1d(slots, slot)
        shares[[0, slot]] = shares[0] / 2
    means = np.append(0.0, means)
    prior.set_mixture(GaussianMixture(means[slots], stddevs[slots], shares[slots]), slots)
