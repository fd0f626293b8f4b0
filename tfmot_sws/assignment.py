"""Which component each weight belongs to, in tensors: the rule of training and strip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfmot_sws.binning import bin_sums
from tfmot_sws.compilation import compiled, custom_gradient
from tfmot_sws.density_table import MixtureTensors
from tfmot_sws.dither import dither, seed_of

Tensor = Any
# From weights to the slots of their components, int32, and to those components' means.
Rule = Callable[[Tensor], tuple[Tensor, Tensor]]


class Noise(NamedTuple):
    """Uniform noise on the weights as they are assigned, anew at each step.

    amplitude: scalar tensor, its standard deviation in the units of the weights.
    step: scalar tensor, a whole number.
    """

    amplitude: Tensor
    step: Tensor

    def added_to(self, weight: Tensor, position: int) -> Tensor:
        """The noisy tensor; `position` tells it from the others of a list."""
        uniform = dither(tuple(weight.shape), seed_of(self.step, position))
        return weight + self.amplitude * math.sqrt(12.0) * uniform


def assign(weights: Tensor, mixture: MixtureTensors, width: Tensor | None) -> Tensor:
    """Index of the component of every weight; see `GaussianMixture.assign`.

    Args:
        weights: float32, any shape.
        mixture: the mixture; components that have died are never chosen.
        width: scalar tensor s > 0, one width for all; `None` takes each component's own.

    Returns:
        int32 indices of the shape of `weights`.
    """
    if width is None:
        return _assign_by_own_width(weights, mixture)
    return _assign_by_common_width(weights, mixture, width)


def snap_to_means(
    weights: Sequence[Tensor],
    mixture: MixtureTensors,
    width: Tensor | None,
    snap: Tensor,
    *,
    noise: Noise | None = None,
    for_means: Tensor | None = None,
) -> list[Tensor]:
    """The weights moved the share `snap` of the way to their component's mean.

    The gradient passes straight through to the weights, as if nothing had moved, and to
    each mean from its members, times `snap`. At snap = 1 the values are the means, bit
    for bit.

    Args:
        weights: float32 tensors of any shapes.
        mixture: as for `assign`; of its fields, only the means receive a gradient.
        width: as for `assign`.
        snap: scalar tensor in [0, 1].
        noise: is added to the weights as they are assigned, and only there.
        for_means: scalar tensor, a factor on the gradient of the means, which costs
            nothing where it is 0; `None` for 1.

    Returns:
        A tensor for each of `weights`, of its shape.
    """
    fixed = {
        "mixture": [ops.stop_gradient(field) for field in mixture],
        "width": [] if width is None else [ops.stop_gradient(width)],
        "noise": [] if noise is None else list(noise),
        "for_means": [] if for_means is None else [for_means],
    }

    leaves = keras.tree.flatten(fixed)

    @custom_gradient
    def moved(means: Tensor, snap: Tensor, *others: Tensor) -> tuple[Any, Any]:
        packed = keras.tree.pack_sequence_as(fixed, others[: len(leaves)])
        weights = others[len(leaves) :]
        values, slots = _move(weights, snap, packed)

        def gradient(upstream: list[Tensor]) -> list[Tensor]:
            # The gradient of an embedding comes without a static shape.
            upstream = [ops.reshape(u, w.shape) for u, w in zip(upstream, weights, strict=True)]
            sums = _scaled_sums(upstream, slots, means, *packed["for_means"])
            unused = [ops.zeros_like(tensor) for tensor in (snap, *others[: len(leaves)])]
            return [snap * sums, *unused, *upstream]

        return values, gradient

    return list(moved(mixture.means, snap, *leaves, *weights))


@compiled
def _assign_by_common_width(weights: Tensor, mixture: MixtureTensors, width: Tensor) -> Tensor:
    return _common_width_rule(mixture, width)(weights)[0]


@compiled
def _assign_by_own_width(weights: Tensor, mixture: MixtureTensors) -> Tensor:
    return _own_width_rule(mixture)(weights)[0]


@compiled
def _move(weights: Sequence[Tensor], snap: Tensor, fixed: dict[str, list[Tensor]]) -> Any:
    """The values of `snap_to_means`, and the slots as uint8, each a list."""
    mixture, width = MixtureTensors(*fixed["mixture"]), fixed["width"]
    rule = _common_width_rule(mixture, *width) if width else _own_width_rule(mixture)
    noise = Noise(*fixed["noise"]) if fixed["noise"] else None
    values, slots = [], []
    for position, weight in enumerate(weights):
        index, mean = rule(weight if noise is None else noise.added_to(weight, position))
        values.append((1.0 - snap) * weight + snap * mean)
        slots.append(ops.cast(index, "uint8"))
    return values, slots


def _scaled_sums(
    values: Sequence[Tensor], slots: list[Tensor], means: Tensor, factor: Tensor | None = None
) -> Tensor:
    """`_member_sums` times the factor; not computed where that is 0."""
    if factor is None:
        return _member_sums(values, slots, means)
    return ops.cond(
        ops.equal(factor, 0.0),
        lambda: ops.zeros_like(means),
        lambda: factor * _member_sums(values, slots, means),
    )


@compiled
def _member_sums(values: Sequence[Tensor], slots: list[Tensor], means: Tensor) -> Tensor:
    """Sum of the values of each component's members, in the shape of the means."""
    return sum(
        bin_sums(value, ops.cast(slot, "int32"), means.shape[0])
        for value, slot in zip(values, slots, strict=True)
    )


def _common_width_rule(mixture: MixtureTensors, width: Tensor) -> Rule:
    """argmax_k log pi_k - (w - mu_k)^2 / (2 s^2), as intervals of w.

    The scores differ by straight lines in w, so each component that is ever the best is
    so in one interval, and the intervals lie in the order of the means. One comparison a
    component then finds a weight's interval.
    """
    order = ops.cast(ops.argsort(mixture.means), "int32")
    means, offsets = (ops.take(f, order) for f in (mixture.means, mixture.log_proportions))
    begins = _interval_begins(means, offsets, width)

    def rule(weights: Tensor) -> tuple[Tensor, Tensor]:
        index = ops.zeros_like(weights, dtype="int32") + order[0]
        target = ops.zeros_like(weights) + means[0]
        for k in range(1, mixture.means.shape[0]):
            beyond = weights > begins[k]
            index = ops.where(beyond, order[k], index)
            target = ops.where(beyond, means[k], target)
        return index, target

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
    num = means.shape[0]
    before = np.triu(np.ones((num, num), bool), k=1)
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
