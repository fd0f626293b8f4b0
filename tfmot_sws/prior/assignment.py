"""Assigns each weight to a component: the rule of training and of stripping.

One width s decides for all components: argmax_k log pi_k - (w - mu_k)^2 / (2 s^2). With each
component's own width the zero component, narrow as it becomes in the paper, takes in hardly
more than weights that are zero already. Each tensor has an s of its own, since a shift costs
one tensor more than another; it grows during training, so that weights become zero gradually.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from tfmot_sws.backend.bins import bin_sums
from tfmot_sws.backend.compiling import compiled
from tfmot_sws.prior.density import MixtureTensors

Tensor = Any
# Up to so many components an interval is found by comparing with each.
_FEW = 32
# From weights to the slots of their components, int32, and to those components' means.
Rule = Callable[[Tensor], tuple[Tensor, Tensor]]


def assign(
    weights: Sequence[Tensor], mixture: MixtureTensors, widths: Sequence[Tensor]
) -> list[Tensor]:
    """Index of the component of every weight; see `GaussianMixture.assign`.

    Args:
        weights: float32 tensors of any shapes.
        mixture: the mixture; components that have died are never chosen.
        widths: scalar tensors s > 0, one for each of the weights; an empty list takes each
            component's own.

    Returns:
        int32 indices of the shapes of `weights`.
    """
    return _assign(list(weights), mixture, list(widths))


@compiled
def _assign(
    weights: list[Tensor], mixture: MixtureTensors, widths: list[Tensor]
) -> list[Tensor]:
    rules = rules_of(mixture, widths, len(weights))
    return [rule(tensor)[0] for rule, tensor in zip(rules, weights, strict=True)]


def count(
    weights: Sequence[Tensor], mixture: MixtureTensors, widths: Sequence[Tensor]
) -> Tensor:
    """Number of each tensor's weights in each component, (T, K); arguments as of `assign`."""
    return _count(list(weights), mixture, list(widths))


@compiled
def _count(weights: list[Tensor], mixture: MixtureTensors, widths: list[Tensor]) -> Tensor:
    indices = _assign(weights, mixture, widths)
    num_components = mixture.means.shape[0]
    return ops.stack(
        [
            bin_sums(ops.ones_like(tensor), index, num_components)
            for tensor, index in zip(weights, indices, strict=True)
        ]
    )


def rules_of(mixture: MixtureTensors, widths: Sequence[Tensor], num_tensors: int) -> list[Rule]:
    """Gives each tensor its rule: that of its width, or of each component's own."""
    if widths:
        return [_common_width_rule(mixture, width) for width in widths]
    return [_own_width_rule(mixture)] * num_tensors


def _common_width_rule(mixture: MixtureTensors, width: Tensor) -> Rule:
    """argmax_k log pi_k - (w - mu_k)^2 / (2 s^2), as intervals of w.

    The scores of two components differ by a straight line in w. So each component is the
    best in one interval or nowhere, and the intervals lie in the order of the means. Of few
    components one comparison each finds a weight's interval, which vectorises as a search and
    a gather do not; of many the program would become long, and its compilation with it.
    """
    order = ops.cast(ops.argsort(mixture.means), "int32")
    means, offsets = (ops.take(f, order) for f in (mixture.means, mixture.log_proportions))
    begins = _interval_begins(means, offsets, width)
    if mixture.means.shape[0] > _FEW:
        return _search(begins, order, means)

    def rule(weights: Tensor) -> tuple[Tensor, Tensor]:
        index = ops.zeros_like(weights, dtype="int32") + order[0]
        target = ops.zeros_like(weights) + means[0]
        for k in range(1, mixture.means.shape[0]):
            beyond = weights > begins[k]
            index = ops.where(beyond, order[k], index)
            target = ops.where(beyond, means[k], target)
        return index, target

    return rule


def _search(begins: Tensor, order: Tensor, means: Tensor) -> Rule:
    """The rule that searches the interval of each weight.

    Args:
        begins: where each component's interval begins, infinity for none, (K,).
        order: their slots, (K,).
        means: their means, (K,).
    """
    ascending = ops.argsort(begins)
    begins, order, means = (ops.take(field, ascending) for field in (begins, order, means))

    def rule(weights: Tensor) -> tuple[Tensor, Tensor]:
        flat = ops.reshape(weights, (-1,))
        place = ops.maximum(ops.searchsorted(begins, flat, side="left") - 1, 0)
        index, target = ops.take(order, place), ops.take(means, place)
        return ops.reshape(index, weights.shape), ops.reshape(target, weights.shape)

    return rule


def _interval_begins(means: Tensor, offsets: Tensor, width: Tensor) -> Tensor:
    """Where each component becomes the best, means ascending; infinity where it never does.

    Args:
        means: shape (K,), ascending.
        offsets: shape (K,), log pi_k.
        width: scalar s > 0.
    """
    gaps = means[None, :] - means[:, None]
    # Entry (j, k): from where on k is better than j, for j before k.
    after = 0.5 * (means[None, :] + means[:, None]) + ops.square(width) * (
        offsets[:, None] - offsets[None, :]
    ) / ops.maximum(gaps, 1e-30)
    places = ops.arange(means.shape[0])
    before = places[:, None] < places[None, :]
    begins = ops.max(ops.where(before, after, -np.inf), axis=0)
    ends = ops.min(ops.where(before, after, np.inf), axis=1)
    return ops.where(begins < ends, begins, np.inf)


def _own_width_rule(mixture: MixtureTensors) -> Rule:
    """argmax_k of the responsibilities, the paper's rule."""
    precisions = ops.exp(mixture.log_precisions)
    offsets = mixture.log_proportions + 0.5 * mixture.log_precisions

    def rule(weights: Tensor) -> tuple[Tensor, Tensor]:
        def score(k: int) -> Tensor:
            return offsets[k] - 0.5 * precisions[k] * ops.square(weights - mixture.means[k])

        # A running maximum fuses into one pass over the weights; an argmax would hold
        # K copies of them.
        best, index = score(0), ops.zeros_like(weights, dtype="int32")
        target = ops.zeros_like(weights) + mixture.means[0]
        for k in range(1, mixture.means.shape[0]):
            candidate = score(k)
            better = candidate > best
            index = ops.where(better, k, index)
            target = ops.where(better, mixture.means[k], target)
            best = ops.maximum(candidate, best)
        return index, target

    return rule
