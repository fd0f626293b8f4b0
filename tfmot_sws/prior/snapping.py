"""Moves weights to their components' means, with the gradients that train both.

The network already runs on its clustered weights while it trains, so that stripping, which
sets every weight to its mean, changes nothing. A common weakness of soft weight-sharing, an
accuracy that falls when weights are set to their means at the end, is gone with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from tfmot_sws.backend.bins import bin_sums
from tfmot_sws.backend.compiling import compiled
from tfmot_sws.backend.gradients import custom_gradient
from tfmot_sws.prior.assignment import Rule, lay_out_for, rule_of
from tfmot_sws.prior.density import MixtureTensors

Tensor = Any


class Part(NamedTuple):
    """Tensors under one mixture, and what their assignment depends on.

    weights: float32 tensors of any shapes.
    mixture, widths: as for `assign`.
    """

    weights: Sequence[Tensor]
    mixture: MixtureTensors
    widths: Sequence[Tensor]


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
    factor = [] if means_factor is None else [means_factor]
    return [_snap(part, snap, factor) for part in parts]


def _snap(part: Part, snap: Tensor, means_factor: list[Tensor]) -> list[Tensor]:
    """`snap_to_means` of one part; TensorFlow moves its matrices at the same time."""
    fixed = MixtureTensors(*(ops.stop_gradient(field) for field in part.mixture))
    rule = rule_of(fixed, [ops.stop_gradient(width) for width in part.widths])
    found: dict[int, Tensor] = {}
    for rows, of_rows in lay_out_for(rule, part.weights):
        packed = rows.pack(part.weights)
        moved = _moved(part.mixture.means, snap, packed, of_rows, means_factor)[0]
        found.update(zip(rows.positions, rows.unpack(moved), strict=True))
    return [found[i] for i in range(len(part.weights))]


@compiled
def _move(rows: Tensor, rule: Rule, snap: Tensor) -> Tensor:
    return (1.0 - snap) * rows + snap * rule.find(rows)[1]


def _moved_gradient(
    upstream: list[Tensor],
    _: Tensor,
    snap: Tensor,
    rows: Tensor,
    rule: Rule,
    means_factor: list[Tensor],
) -> list[Tensor | None]:
    """The gradients of `_moved` in its arguments: of the means and the weights only."""
    # The gradient of an embedding comes without a static shape.
    to_rows = ops.reshape(upstream[0], rows.shape)
    to_means = snap * _scaled_sums(to_rows, rows, rule, means_factor)
    others = keras.tree.flatten((rule, means_factor))
    return [to_means, None, to_rows, *(None for _ in others)]


_moved = custom_gradient(
    lambda _, snap, rows, rule, __: [_move(rows, rule, snap)], _moved_gradient
)


def _scaled_sums(
    values: Tensor, rows: Tensor, rule: Rule, means_factor: list[Tensor]
) -> Tensor:
    """`_member_sums` times the factor for the means; not computed where that is 0."""
    if not means_factor:
        return _member_sums(values, rows, rule)
    (factor,) = means_factor
    return ops.cond(
        ops.equal(factor, 0.0),
        lambda: ops.zeros((rule.num_components,)),
        lambda: factor * _member_sums(values, rows, rule),
    )


@compiled
def _member_sums(values: Tensor, rows: Tensor, rule: Rule) -> Tensor:
    """The sum of the values of each component's members, (K,).

    It finds the members again, because a comparison a component is cheaper than writing and
    reading an index for each weight.
    """
    return bin_sums(values, rule.find(rows)[0], rule.num_components)
