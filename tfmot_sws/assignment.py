"""Which component each weight belongs to, in tensors: the rule of training and strip."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfmot_sws.compilation import compiled
from tfmot_sws.density_table import MixtureTensors

Tensor = Any


@compiled
def assign(weights: Tensor, mixture: MixtureTensors, width: Tensor) -> Tensor:
    """Index of the component of every weight; see `GaussianMixture.assign`.

    Args:
        weights: float32, any shape.
        mixture: the mixture; components that have died are never chosen.
        width: scalar tensor s > 0, one width for all; 0 takes each component's own.

    Returns:
        int32 indices of the shape of `weights`.
    """
    own = ops.exp(mixture.log_precisions)
    common = 1.0 / ops.square(ops.maximum(width, 1e-12))
    precisions = ops.where(width > 0, common, own)
    offsets = mixture.log_proportions + ops.where(width > 0, 0.0, 0.5 * mixture.log_precisions)

    def score(k: int) -> Tensor:
        return offsets[k] - 0.5 * precisions[k] * ops.square(weights - mixture.means[k])

    # A running maximum fuses into one pass over the weights; an argmax would hold
    # K copies of them.
    best, index = score(0), ops.zeros_like(weights, dtype="int32")
    for k in range(1, mixture.means.shape[0]):
        candidate = score(k)
        index = ops.where(candidate > best, k, index)
        best = ops.maximum(candidate, best)
    return index


@compiled
def snap_to_means(weights: Tensor, means: Tensor, index: Tensor, snap: Tensor) -> Tensor:
    """The weights moved the share `snap` of the way to their component's mean.

    The gradient passes straight through to the weights, as if nothing had moved, and to
    each mean from its members, times `snap`. At snap = 1 the values are the means, bit
    for bit.

    Args:
        weights: float32, any shape.
        means: float32, shape (K,).
        index: int32 component indices, shape of the weights.
        snap: scalar tensor in [0, 1].
    """
    fixed = ops.stop_gradient(weights)
    target = ops.take(means, index)
    value = (1.0 - snap) * fixed + snap * ops.stop_gradient(target)
    return value + (weights - fixed) + snap * (target - ops.stop_gradient(target))
