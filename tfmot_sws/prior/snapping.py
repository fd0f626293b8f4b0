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
from keras import ops

from tfmot_sws.backend.bins import bin_sums
from tfmot_sws.backend.compiling import compiled
from tfmot_sws.backend.gradients import custom_gradient
from tfmot_sws.prior.assignment import rules_of
from tfmot_sws.prior.density import MixtureTensors
from tfmot_sws.prior.noise import seed_of, uniform_noise

Tensor = Any

# Neighbouring tensors of up to this many weights together are moved as one, because each call
# has its cost. TensorFlow moves several groups at the same time, and the network's first
# layers need not wait for all of them.
GROUP_SIZE = 1 << 18


class Noise(NamedTuple):
    """Uniform noise on the weights as they are assigned, different at each step.

    Weights near a boundary between two components take both sides in turn, so that the
    network comes to depend on neither.

    amplitudes: scalar tensors, its standard deviation on each tensor, in units of the weights.
    step: scalar tensor, a whole number.
    """

    amplitudes: Sequence[Tensor]
    step: Tensor


class _Setting(NamedTuple):
    """Inputs of the assignment besides the weights.

    An empty list means unused, since arguments of compiled functions cannot be `None`.

    mixture, widths, means_factor: as of `snap_to_means`. amplitudes, seeds: of the noise,
    one a tensor.
    """

    mixture: MixtureTensors
    widths: list[Tensor]
    amplitudes: list[Tensor]
    seeds: list[Tensor]
    means_factor: list[Tensor]

    def noisy(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The weights with the noise on their assignment."""
        if not self.amplitudes:
            return list(weights)
        noises = zip(weights, self.amplitudes, self.seeds, strict=True)
        return [
            weight + math.sqrt(12.0) * amplitude * uniform_noise(tuple(weight.shape), seed)
            for weight, amplitude, seed in noises
        ]


def snap_to_means(
    weights: Sequence[Tensor],
    mixture: MixtureTensors,
    widths: Sequence[Tensor],
    snap: Tensor,
    *,
    noise: Noise | None = None,
    means_factor: Tensor | None = None,
) -> list[Tensor]:
    """Moves weights the share `snap` of the way to their components' means.

    The gradient passes straight through to the weights, as if nothing had moved, and to
    each mean from its members, times `snap`. At snap = 1 the values are the means, bit
    for bit.

    Args:
        weights: float32 tensors of any shapes.
        mixture: as for `assign`; of its fields, only the means receive a gradient.
        widths: as for `assign`.
        snap: scalar tensor in [0, 1].
        noise: added to the weights for the assignment only.
        means_factor: scalar tensor, multiplies the gradient of the means; where it is 0,
            their sums are not computed. `None` for 1.

    Returns:
        A tensor for each of `weights`, of its shape.
    """
    fixed = MixtureTensors(*(ops.stop_gradient(field) for field in mixture))
    moved: list[Tensor] = []
    for group in _groups([math.prod(weight.shape) for weight in weights]):
        setting = _Setting(
            fixed,
            [ops.stop_gradient(widths[i]) for i in group] if widths else [],
            [] if noise is None else [noise.amplitudes[i] for i in group],
            [] if noise is None else [seed_of(noise.step, position) for position in group],
            [] if means_factor is None else [means_factor],
        )
        moved += _snap([weights[i] for i in group], mixture.means, snap, setting)
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
    rules = rules_of(setting.mixture, setting.widths, len(weights))
    return [
        (1.0 - snap) * weight + snap * rule(noisy)[1]
        for rule, weight, noisy in zip(rules, weights, setting.noisy(weights), strict=True)
    ]


def _scaled_sums(
    values: Sequence[Tensor], weights: Sequence[Tensor], setting: _Setting
) -> Tensor:
    """`_member_sums` times the factor for the means; not computed where that is 0."""
    if not setting.means_factor:
        return _member_sums(values, weights, setting)
    (factor,) = setting.means_factor
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

    It finds the members again, because a comparison a component is cheaper than writing and
    reading an index for each weight.
    """
    rules = rules_of(setting.mixture, setting.widths, len(weights))
    return sum(
        bin_sums(value, rule(noisy)[0], setting.mixture.means.shape[0])
        for rule, value, noisy in zip(rules, values, setting.noisy(weights), strict=True)
    )
