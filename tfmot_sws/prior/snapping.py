"""Moves weights to their components' means, with the gradients that train both.

The network already runs on its clustered weights while it trains, so that stripping, which
sets every weight to its mean, changes nothing. A common weakness of soft weight-sharing, an
accuracy that falls when weights are set to their means at the end, is gone with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfmot_sws.backend.bins import bin_sums
from tfmot_sws.backend.compiling import compiled
from tfmot_sws.backend.gradients import custom_gradient
from tfmot_sws.prior.assignment import Rule, rules_of
from tfmot_sws.prior.density import MixtureTensors

Tensor = Any

# Neighbouring tensors of up to this many weights together are moved as one, because each call
# has its cost. TensorFlow moves several groups at the same time, and the network's first
# layers need not wait for all of them.
GROUP_SIZE = 1 << 19


class Part(NamedTuple):
    """Tensors under one mixture, and what their assignment depends on.

    weights: float32 tensors of any shapes.
    mixture, widths: as for `assign`.
    """

    weights: Sequence[Tensor]
    mixture: MixtureTensors
    widths: Sequence[Tensor]

    def take(self, positions: Sequence[int]) -> Part:
        """The part of the tensors at some positions."""
        widths = [self.widths[i] for i in positions] if self.widths else []
        return Part([self.weights[i] for i in positions], self.mixture, widths)

    def rules(self) -> list[Rule]:
        """The rule of each tensor's assignment."""
        return rules_of(self.mixture, self.widths, len(self.weights))


def snap_to_means(
    parts: Sequence[Part], snap: Tensor, *, means_factor: Tensor | None = None
) -> list[list[Tensor]]:
    """Moves weights the share `snap` of the way to their components' means.

    The gradient passes straight through to the weights, as if nothing had moved, and to
    each mean from its members, times `snap`. At snap = 1 the values are the means, bit
    for bit.

    Args:
        parts: the weights under each mixture; of a mixture's fields, only the means receive
            a gradient.
        snap: scalar tensor in [0, 1].
        means_factor: scalar tensor, multiplies the gradient of the means; where it is 0,
            their sums are not computed. `None` for 1.

    Returns:
        For each part a tensor for each of its weights, of its shape.
    """
    flat = [(number, i) for number, part in enumerate(parts) for i in range(len(part.weights))]
    sizes = [math.prod(parts[number].weights[i].shape) for number, i in flat]
    moved: list[list[Tensor]] = [[] for _ in parts]
    for group in _groups(sizes):
        positions: dict[int, list[int]] = {}
        for number, position in flat[group.start : group.stop]:
            positions.setdefault(number, []).append(position)
        chosen = [parts[number].take(which) for number, which in positions.items()]
        results = _snap(chosen, snap, [] if means_factor is None else [means_factor])
        for number, result in zip(positions, results, strict=True):
            moved[number] += result
    return moved


def _groups(sizes: Sequence[int]) -> list[range]:
    """Groups neighbouring tensors that are moved together; gives ranges of positions."""
    groups, total = [range(0)], 0
    for position, size in enumerate(sizes):
        if groups[-1] and total + size > GROUP_SIZE:
            groups.append(range(position, position))
            total = 0
        groups[-1] = range(groups[-1].start, position + 1)
        total += size
    return groups


def _snap(
    parts: Sequence[Part], snap: Tensor, means_factor: list[Tensor]
) -> list[list[Tensor]]:
    """`snap_to_means` of one group."""
    means = [part.mixture.means for part in parts]
    fixed = [
        part._replace(
            mixture=MixtureTensors(*(ops.stop_gradient(field) for field in part.mixture)),
            widths=[ops.stop_gradient(width) for width in part.widths],
        )
        for part in parts
    ]
    moved = _moved(means, snap, fixed, means_factor)
    return _divided(moved, fixed)


def _divided(flat: Sequence[Tensor], parts: Sequence[Part]) -> list[list[Tensor]]:
    """Divides a flat list into the weights of each part."""
    ends = np.cumsum([len(part.weights) for part in parts])
    bounds = zip([0, *ends[:-1]], ends, strict=True)
    return [list(flat[start:end]) for start, end in bounds]


@compiled
def _move(parts: Sequence[Part], snap: Tensor) -> list[Tensor]:
    """The values of `snap_to_means`, in one list."""
    return [
        (1.0 - snap) * weight + snap * rule(weight)[1]
        for part in parts
        for rule, weight in zip(part.rules(), part.weights, strict=True)
    ]


def _moved_gradient(
    upstream: list[Tensor],
    _: list[Tensor],
    snap: Tensor,
    parts: Sequence[Part],
    means_factor: list[Tensor],
) -> list[Tensor | None]:
    """The gradients of `_moved` in its arguments: of the means and the weights only."""
    weights = [weight for part in parts for weight in part.weights]
    # The gradient of an embedding comes without a static shape.
    upstream = [ops.reshape(u, w.shape) for u, w in zip(upstream, weights, strict=True)]
    divided = _divided(upstream, parts)
    to_parts: list[Tensor | None] = []
    for of_part, part in zip(divided, parts, strict=True):
        others = keras.tree.flatten(part._replace(weights=[]))
        to_parts += [*of_part, *(None for _ in others)]
    sums = _scaled_sums(divided, parts, means_factor)
    return [*(snap * total for total in sums), None, *to_parts, *(None for _ in means_factor)]


_moved = custom_gradient(lambda _, snap, parts, *__: _move(parts, snap), _moved_gradient)


def _scaled_sums(
    values: Sequence[Sequence[Tensor]], parts: Sequence[Part], means_factor: list[Tensor]
) -> list[Tensor]:
    """`_member_sums` times the factor for the means; not computed where that is 0."""
    if not means_factor:
        return _member_sums(values, parts)
    (factor,) = means_factor
    return ops.cond(
        ops.equal(factor, 0.0),
        lambda: [ops.zeros_like(part.mixture.means) for part in parts],
        lambda: [factor * total for total in _member_sums(values, parts)],
    )


@compiled
def _member_sums(values: Sequence[Sequence[Tensor]], parts: Sequence[Part]) -> list[Tensor]:
    """For each part the sum of the values of each component's members, (K,).

    It finds the members again, because a comparison a component is cheaper than writing and
    reading an index for each weight.
    """
    return [
        sum(
            bin_sums(value, rule(weight)[0], part.mixture.means.shape[0])
            for rule, value, weight in zip(part.rules(), of_part, part.weights, strict=True)
        )
        for part, of_part in zip(parts, values, strict=True)
    ]
