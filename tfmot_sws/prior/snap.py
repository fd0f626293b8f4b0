"""The snap: weights moved to their components' means, with the gradients that train both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from tfmot_sws.backend.bins import bin_sums
from tfmot_sws.backend.compilation import compiled, custom_gradient
from tfmot_sws.prior.assignment import rule_of
from tfmot_sws.prior.density import MixtureTensors
from tfmot_sws.prior.dither import dither, seed_of

Tensor = Any

# Neighbouring tensors of up to this many weights together are moved as one, since each call has
# its cost, and a whole step under XLA pays for each branch. Groups are moved side by side, so
# that the first layers need not wait for all.
GROUP_SIZE = 1 << 18


class Noise(NamedTuple):
    """Uniform noise on the weights as they are assigned, anew at each step.

    amplitude: scalar tensor, its standard deviation in the units of the weights.
    step: scalar tensor, a whole number.
    """

    amplitude: Tensor
    step: Tensor


class _Setting(NamedTuple):
    """What a move depends on beyond the weights; a list is empty where something is not asked.

    mixture, width: as of `snap_to_means`. amplitude: of the noise. seeds: one a tensor, of
    its noise. for_means: factor on the means' gradient.
    """

    mixture: MixtureTensors
    width: list[Tensor]
    amplitude: list[Tensor]
    seeds: list[Tensor]
    for_means: list[Tensor]

    def noisy(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The weights as they are assigned."""
        if not self.amplitude:
            return list(weights)
        reach = self.amplitude[0] * math.sqrt(12.0)
        return [
            weight + reach * dither(tuple(weight.shape), seed)
            for weight, seed in zip(weights, self.seeds, strict=True)
        ]


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
    fixed = MixtureTensors(*(ops.stop_gradient(field) for field in mixture))
    moved: list[Tensor] = []
    for group in _groups([math.prod(weight.shape) for weight in weights]):
        setting = _Setting(
            fixed,
            [] if width is None else [ops.stop_gradient(width)],
            [] if noise is None else [noise.amplitude],
            [] if noise is None else [seed_of(noise.step, position) for position in group],
            [] if for_means is None else [for_means],
        )
        moved += _snap([weights[i] for i in group], mixture.means, snap, setting)
    return moved


def _groups(sizes: Sequence[int]) -> list[range]:
    """Neighbours that are moved together, as ranges of positions."""
    groups, total = [range(0)], 0
    for position, size in enumerate(sizes):
        if groups[-1] and total + size > GROUP_SIZE:
            groups.append(range(position, position))
            total = 0
        groups[-1] = range(groups[-1].start, position + 1)
        total += size
    return groups


def _snap(
    weights: Sequence[Tensor], means: Tensor, snap: Tensor, setting: _Setting
) -> list[Tensor]:
    """`snap_to_means` of one group."""
    leaves = keras.tree.flatten(setting)

    @custom_gradient
    def moved(_: Tensor, snap: Tensor, *others: Tensor) -> tuple[Any, Any]:
        packed = keras.tree.pack_sequence_as(setting, others[: len(leaves)])
        weights = others[len(leaves) :]

        def gradient(upstream: list[Tensor]) -> list[Tensor]:
            # The gradient of an embedding comes without a static shape.
            upstream = [ops.reshape(u, w.shape) for u, w in zip(upstream, weights, strict=True)]
            sums = _scaled_sums(upstream, weights, packed)
            unused = [ops.zeros_like(tensor) for tensor in (snap, *others[: len(leaves)])]
            return [snap * sums, *unused, *upstream]

        return _move(weights, snap, packed), gradient

    return list(moved(means, snap, *leaves, *weights))


@compiled
def _move(weights: Sequence[Tensor], snap: Tensor, setting: _Setting) -> list[Tensor]:
    """The values of `snap_to_means`."""
    rule = rule_of(setting.mixture, setting.width)
    return [
        (1.0 - snap) * weight + snap * rule(noisy)[1]
        for weight, noisy in zip(weights, setting.noisy(weights), strict=True)
    ]


def _scaled_sums(
    values: Sequence[Tensor], weights: Sequence[Tensor], setting: _Setting
) -> Tensor:
    """`_member_sums` times the factor for the means; not computed where that is 0."""
    if not setting.for_means:
        return _member_sums(values, weights, setting)
    (factor,) = setting.for_means
    return ops.cond(
        ops.equal(factor, 0.0),
        lambda: ops.zeros_like(setting.mixture.means),
        lambda: factor * _member_sums(values, weights, setting),
    )


@compiled
def _member_sums(
    values: Sequence[Tensor], weights: Sequence[Tensor], setting: _Setting
) -> Tensor:
    """Sum of the values of each component's members, (K,).

    The members are found again: handing them on from `_move` would have every step write
    down what only some steps read.
    """
    rule = rule_of(setting.mixture, setting.width)
    return sum(
        bin_sums(value, rule(noisy)[0], setting.mixture.means.shape[0])
        for value, noisy in zip(values, setting.noisy(weights), strict=True)
    )
