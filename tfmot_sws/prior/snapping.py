"""Moves weights to their components' means, with the gradients that train both.

The network already runs on its clustered weights while it trains, so that stripping, which
sets every weight to its mean, changes nothing. A common weakness of soft weight-sharing, an
accuracy that falls when weights are set to their means at the end, is gone with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfmot_sws.backend.compiling import compiled
from tfmot_sws.backend.gradients import custom_gradient
from tfmot_sws.backend.rows import Rows
from tfmot_sws.prior.assignment import (
    Part,
    Rule,
    group_parts,
    lay_out_for,
    mixtures_of_tensors,
    sum_in_rows,
)
from tfmot_sws.prior.density import MixtureTensors

Tensor = Any


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

    def move(group: Sequence[Part], rows: Rows, packed: Tensor, rule: Rule) -> Tensor:
        means = ops.stack([part.mixture.means for part in group])
        mixtures = ops.convert_to_tensor(mixtures_of_tensors(group)[rows.owners])
        return _moved(means, snap, packed, rule, mixtures, factor)[0]

    return _snap(parts, move)


def snap_without_gradients(parts: Sequence[Part], snap: Tensor) -> list[list[Tensor]]:
    """The values of `snap_to_means`. TensorFlow keeps each custom gradient for ever."""
    return _snap(parts, lambda _, __, packed, rule: _move(packed, rule, snap))


def _snap(parts: Sequence[Part], move: Callable[..., Tensor]) -> list[list[Tensor]]:
    found: dict[int, list[Tensor]] = {}
    for positions in group_parts(parts):
        moved = _snap_group([parts[position] for position in positions], move)
        found.update(zip(positions, moved, strict=True))
    return [found[position] for position in range(len(parts))]


def _snap_group(parts: Sequence[Part], move: Callable[..., Tensor]) -> list[list[Tensor]]:
    """Weights of one group of parts, moved; TensorFlow moves its matrices side by side."""
    weights = [tensor for part in parts for tensor in part.weights]
    found: dict[int, Tensor] = {}
    for rows, rule in lay_out_for([_without_gradients(part) for part in parts]):
        moved = move(parts, rows, rows.pack(weights), rule)
        found.update(zip(rows.positions, rows.unpack(moved), strict=True))
    ordered = iter(found[i] for i in range(len(weights)))
    return [[next(ordered) for _ in part.weights] for part in parts]


def _without_gradients(part: Part) -> Part:
    fixed = MixtureTensors(*(ops.stop_gradient(field) for field in part.mixture))
    return Part(part.weights, fixed, [ops.stop_gradient(width) for width in part.widths])


@compiled
def _move(rows: Tensor, rule: Rule, snap: Tensor) -> Tensor:
    return (1.0 - snap) * rows + snap * rule.find(rows)[1]


def _moved_gradient(
    upstream: list[Tensor],
    means: Tensor,
    snap: Tensor,
    rows: Tensor,
    rule: Rule,
    mixtures: Tensor,
    means_factor: list[Tensor],
) -> list[Tensor | None]:
    """The gradients of `_moved` in its arguments: of the means and the weights only."""
    # The gradient of an embedding comes without a static shape.
    to_rows = ops.reshape(upstream[0], rows.shape)
    sums = _scaled_sums(to_rows, rows, rule, means_factor)
    to_means = snap * ops.segment_sum(sums, mixtures, means.shape[0])
    others = keras.tree.flatten((rule, mixtures, means_factor))
    return [to_means, None, to_rows, *(None for _ in others)]


_moved = custom_gradient(
    lambda _, snap, rows, rule, __, ___: [_move(rows, rule, snap)], _moved_gradient
)


def _scaled_sums(
    values: Tensor, rows: Tensor, rule: Rule, means_factor: list[Tensor]
) -> Tensor:
    """`sum_in_rows` times the factor for the means; not computed where that is 0."""
    if not means_factor:
        return sum_in_rows(values, rows, rule)
    (factor,) = means_factor
    return ops.cond(
        ops.equal(factor, 0.0),
        lambda: ops.zeros((rows.shape[0], rule.num_components)),
        lambda: factor * sum_in_rows(values, rows, rule),
    )
