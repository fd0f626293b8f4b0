"""Computes -log p of many scalar weights, and its gradients, from a table.

The weights are scalars, so f(w) = -log p(w) is a function of one number. The table holds f
and its derivatives at some four thousand knots, by the defining formula. Each weight reads a
cubic Hermite polynomial between two knots. With G knots the cost is O(|W| + G K) in place of
O(|W| K).

All functions take and return tensors of the active Keras backend.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmot_sws.backend.compiling import compiled
from tfmot_sws.backend.gradients import value_and_gradients, with_gradients
from tfmot_sws.backend.packing import Packing
from tfmot_sws.backend.slices import in_slices
from tfmot_sws.prior.density import (
    Derivatives,
    MixtureTensors,
    derivatives,
    mixture_gradients,
    negative_log_prob,
)
from tfmot_sws.prior.table_knots import PLACE_BITS, Knots, locate, place_knots, split

# The histogram of the weights has 2^BIN_BITS bins in each interval between knots.
BIN_BITS = 3
# Fewer weights than this use the defining formula, which is then as fast.
EXACT_BELOW = 4096
# Tensors below this size are joined: a call costs as much as some thousand weights.
SMALL = 1 << 15
# Larger tensors are read in slices of at most this size, so that temporary tensors, some 20
# bytes a weight, exist for one or two slices at a time. Float32 counts stay exact as well.
SLICE = 1 << 18

Tensor = Any


class _Table(NamedTuple):
    """The knots, and f with its derivatives there.

    slopes: coefficients of the cubics for f' on every interval, (G, 4). They interpolate f'
        and f''. The derivatives of the cubics for f would be less accurate: they divide the
        difference of two large values by a small step.
    """

    knots: Knots
    at_knots: Derivatives
    slopes: Tensor


def total_negative_log_prob(weights: list[Tensor], mixture: MixtureTensors) -> Tensor:
    """Computes -sum_i log p(w_i), differentiable in weights and mixture.

    Args:
        weights: float32 tensors of any static shapes.
        mixture: the mixture's tensors.

    Returns:
        Scalar, with the gradients of `total_and_gradients`.
    """
    fixed = [ops.stop_gradient(tensor) for tensor in (*weights, *mixture)]
    size = len(weights)
    total, gradients = total_and_gradients(fixed[:size], MixtureTensors(*fixed[size:]))
    return with_gradients(total, [*weights, *mixture], gradients)


def total_and_gradients(
    weights: list[Tensor], mixture: MixtureTensors
) -> tuple[Tensor, list[Tensor]]:
    """Computes -sum_i log p(w_i), and its gradients in weights and mixture.

    Args:
        weights: float32 tensors of any static shapes.
        mixture: the mixture's tensors.

    Returns:
        The scalar, and the gradient in each of the weights and each field of the mixture,
        of its shape. The gradient in a weight is f' from the table; the gradients in the
        mixture are those of the cubics for f.
    """
    if sum(_size(tensor) for tensor in weights) < EXACT_BELOW:
        return value_and_gradients(_exact_total, [*weights, *mixture])
    table = _tabulate(mixture)
    histogram, slopes = _read_all(weights, table)
    total, in_mixture = _total_of_histogram(histogram, table, mixture)
    return total, [*slopes, *in_mixture]


def _exact_total(*tensors: Tensor) -> Tensor:
    """Computes -sum_i log p(w_i) by the formula; the last three tensors are the mixture."""
    weights, mixture = tensors[:-3], MixtureTensors(*tensors[-3:])
    flat = [ops.reshape(tensor, (-1,)) for tensor in weights]
    return sum(ops.sum(negative_log_prob(points, mixture)) for points in flat)


def _read_all(weights: list[Tensor], table: _Table) -> tuple[Tensor, list[Tensor]]:
    """Returns one histogram of all tensors, and f' at the weights of each."""
    packing = Packing([tuple(tensor.shape) for tensor in weights], SMALL)
    histograms, slopes = zip(
        *(_read_slices(flat, table) for flat in packing.pack(weights)), strict=True
    )
    return sum(histograms), packing.unpack(slopes)


def _read_slices(flat: Tensor, table: _Table) -> tuple[Tensor, Tensor]:
    """Returns histogram and f' of a flat tensor; reads a large one in slices."""
    size = _size(flat)
    if size <= SLICE // 2:
        return _read(flat, table)
    # With an even number of equal slices, two cores finish at the same time.
    num_slices = 2 * math.ceil(size / (2 * SLICE))
    return in_slices(lambda part: _read(part, table), flat, math.ceil(size / num_slices))


def _size(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape))


@compiled
def _tabulate(mixture: MixtureTensors) -> _Table:
    knots = place_knots(mixture)
    at_knots = derivatives(knots.ends, mixture)
    return _Table(knots, at_knots, _hermite(at_knots.slope, at_knots.curvature, knots.steps))


def _total_of_histogram(
    histogram: Tensor, table: _Table, mixture: MixtureTensors
) -> tuple[Tensor, MixtureTensors]:
    """Computes the sum of f over all weights, and its gradients in the mixture's fields."""
    # Two programs: in a single one, XLA would compute the first's results for each component.
    total, by_knots = _sum_of_cubics(histogram, table)
    return total, _mixture_gradients(table.knots.ends, mixture, table.at_knots, *by_knots)


_mixture_gradients = compiled(mixture_gradients)


@compiled
def _sum_of_cubics(histogram: Tensor, table: _Table) -> tuple[Tensor, list[Tensor]]:
    """Computes the sum of f over all weights, and its gradients in f and f' at the knots.

    The histogram holds sums of the powers of the weights' places, so the sum of f is linear
    in the coefficients of the cubics.
    """

    def total(value: Tensor, slope: Tensor) -> Tensor:
        return ops.sum(histogram * _hermite(value, slope, table.knots.steps))

    return value_and_gradients(total, [table.at_knots.value, table.at_knots.slope])


def _hermite(values: Tensor, slopes: Tensor, steps: Tensor) -> Tensor:
    """Returns the coefficients of the cubic on each interval, shape (G, 4).

    Args:
        values: at the knots, (G + 1,).
        slopes: derivatives at the knots, (G + 1,).
        steps: lengths of the intervals, (G,).
    """
    value, change = values[:-1], values[1:] - values[:-1]
    slope_0, slope_1 = slopes[:-1] * steps, slopes[1:] * steps
    quadratic = 3 * change - 2 * slope_0 - slope_1
    return ops.stack([value, slope_0, quadratic, slope_0 + slope_1 - 2 * change], axis=-1)


def _read(weights: Tensor, table: _Table) -> tuple[Tensor, Tensor]:
    """Returns the sums of `_histogram`, shape (G, 4), and f' at every weight."""
    # Three programs: in a single one, XLA would compute the positions twice.
    positions = _locate(weights, table.knots.cells)
    return _histogram(positions, table.knots.steps), _slopes(positions, table.slopes)


_locate = compiled(locate)


@compiled
def _slopes(positions: Tensor, cubics: Tensor) -> Tensor:
    """Returns f' at each position."""
    interval, place = split(positions, PLACE_BITS)
    place = place * 2.0**-PLACE_BITS
    # XLA fuses four gathers of numbers into one loop, but not a gather of rows.
    a, b, c, d = (ops.take(cubics[:, power], interval) for power in range(4))
    return a + place * (b + place * (c + place * d))


@compiled
def _histogram(positions: Tensor, steps: Tensor) -> Tensor:
    """Sums place^0 ... place^3 over the weights in each interval, shape (G, 4).

    Each interval is divided into bins. A bin counts its weights and adds up their places.
    The sums of higher powers assume that weights spread evenly within a bin.
    """
    bins, place = split(positions, PLACE_BITS - BIN_BITS)
    place = place * 2.0**-PLACE_BITS - 0.5 * 2.0**-BIN_BITS
    # One pass over the weights takes the same time for two columns as for one.
    columns = ops.stack([ops.ones_like(place), place], axis=-1)
    num_intervals = _size(steps)
    sums = ops.segment_sum(columns, bins, num_intervals << BIN_BITS)
    return ops.matmul(ops.reshape(sums, (num_intervals, -1)), _moments().astype("float32"))


def _moments() -> np.ndarray:
    """Returns the matrix that turns sums per bin into sums per interval, (2 bins, 4).

    From the sums of (place - centre)^0 and ^1 to those of place^0 ... place^3.
    """
    length = 2.0**-BIN_BITS
    centre = length * (np.arange(1 << BIN_BITS) + 0.5)
    spread = length**2 / 12
    one, zero = np.ones_like(centre), np.zeros_like(centre)
    of_number = one, centre, centre**2 + spread, centre**3 + 3 * centre * spread
    of_places = zero, one, 2 * centre, 3 * centre**2
    moments = np.stack([np.stack(of_number, axis=-1), np.stack(of_places, axis=-1)], axis=1)
    return moments.reshape(-1, 4)
