"""The mixture's negative log-density of many scalar weights, by table.

The weights are scalars, so f(w) = -log p(w) is a function of one number. It is
evaluated exactly, with its derivatives, at two to four thousand knots; each weight reads a
cubic Hermite polynomial between two knots. Cost per step: O(|W| + G K) in place of
O(|W| K).

All functions take and return tensors of the active Keras backend.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmot_sws.backend.compilation import (
    compiled,
    in_slices,
    value_and_gradients,
    with_gradients,
)
from tfmot_sws.backend.packing import Packing
from tfmot_sws.prior.density import (
    Derivatives,
    MixtureTensors,
    derivatives,
    mixture_gradients,
    negative_log_prob,
)
from tfmot_sws.prior.table_knots import PLACE_BITS, Knots, locate, place_knots, split

# The histogram of the weights has 2^PART_BITS bins in each knot interval.
PART_BITS = 4
# Fewer weights than this are evaluated one by one: exact, and no slower.
EXACT_BELOW = 4096
# Tensors below this size are read as one: each reading costs as much as some thousand weights.
SMALL = 1 << 15
# Larger tensors are read in slices of at most this size: what is computed in between, some 20
# bytes a weight, is held for one or two of them only. Float32 sums of ones stay exact as well.
SLICE = 1 << 18

Tensor = Any


class _Table(NamedTuple):
    """The knots, and f with its derivatives at the ends of their intervals.

    slopes: cubics of f' on every interval, (G, 4). They are not the derivatives of
        f's cubics: those would take the difference of large values over a small step.
    """

    knots: Knots
    at_knots: Derivatives
    slopes: Tensor


def total_negative_log_prob(weights: list[Tensor], mixture: MixtureTensors) -> Tensor:
    """-sum_i log p(w_i) over all weights, differentiable in weights and mixture.

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
    """-sum_i log p(w_i) over all weights, and its gradients in weights and mixture.

    Args:
        weights: float32 tensors of any static shapes.
        mixture: the mixture's tensors.

    Returns:
        The scalar, and a tensor for each of the weights and each field of the mixture, of
        its shape. That of a weight is the table's f'; those of the mixture are exact for
        the polynomial that stands for f.
    """
    if sum(_size(tensor) for tensor in weights) < EXACT_BELOW:
        return value_and_gradients(_exact_total, [*weights, *mixture])
    table = _tabulate(mixture)
    histogram, slopes = _read_all(weights, table)
    total, in_mixture = _total_of_histogram(histogram, table, mixture)
    return total, [*slopes, *in_mixture]


def _exact_total(*tensors: Tensor) -> Tensor:
    """`total_negative_log_prob` of some weights and the three fields, by the formula."""
    weights, mixture = tensors[:-3], MixtureTensors(*tensors[-3:])
    flat = [ops.reshape(tensor, (-1,)) for tensor in weights]
    return sum(ops.sum(negative_log_prob(points, mixture)) for points in flat)


def _read_all(weights: list[Tensor], table: _Table) -> tuple[Tensor, list[Tensor]]:
    """Histogram of all the tensors together, and the slopes of each."""
    packing = Packing([tuple(tensor.shape) for tensor in weights], SMALL)
    histograms, slopes = zip(
        *(_read_slices(flat, table) for flat in packing.pack(weights)), strict=True
    )
    return sum(histograms), packing.unpack(slopes)


def _read_slices(flat: Tensor, table: _Table) -> tuple[Tensor, Tensor]:
    """Histogram and slopes of a flat tensor, in slices where it is large."""
    size = _size(flat)
    if size <= SLICE // 2:
        return _read(flat, table)
    # An even number of equal ones leaves no core to wait for the last.
    num_slices = 2 * math.ceil(size / (2 * SLICE))
    return in_slices(lambda part: _read(part, table), flat, math.ceil(size / num_slices))


def _size(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape))


@compiled
def _tabulate(mixture: MixtureTensors) -> _Table:
    knots = place_knots(mixture)
    at_knots = derivatives(knots.ends, mixture)
    return _Table(knots, at_knots, _hermite(at_knots.slope, at_knots.bend, knots.steps))


@compiled
def _total_of_histogram(
    histogram: Tensor, table: _Table, mixture: MixtureTensors
) -> tuple[Tensor, MixtureTensors]:
    """The total over all weights, and its gradients in the mixture's fields.

    With the sums of the polynomial's powers in each knot interval, as of `_read`, it is
    linear in the cubics of f, through which the mixture gets its gradient.
    """

    def total(value: Tensor, slope: Tensor) -> Tensor:
        return ops.sum(histogram * _hermite(value, slope, table.knots.steps))

    at_knots = table.at_knots
    result, by_knots = value_and_gradients(total, [at_knots.value, at_knots.slope])
    return result, mixture_gradients(table.knots.ends, mixture, at_knots, *by_knots)


def _hermite(values: Tensor, slopes: Tensor, steps: Tensor) -> Tensor:
    """Coefficients of the cubic through both ends of each interval, shape (G, 4)."""
    value, rise = values[:-1], values[1:] - values[:-1]
    slope_0, slope_1 = slopes[:-1] * steps, slopes[1:] * steps
    return ops.stack(
        [value, slope_0, 3 * rise - 2 * slope_0 - slope_1, slope_0 + slope_1 - 2 * rise],
        axis=-1,
    )


def _read(weights: Tensor, table: _Table) -> tuple[Tensor, Tensor]:
    """What the table says of some weights.

    Returns:
        Sums of place^0 ... place^3 over the weights in each knot interval, shape (G, 4),
        and f'(w) of every weight.
    """
    # Three programs: in one, XLA would locate the weights once for each of the other two.
    positions = _locate(weights, table.knots.ruler)
    return _histogram(positions, table.knots.steps), _slopes(positions, table.slopes)


_locate = compiled(locate)


@compiled
def _slopes(positions: Tensor, cubics: Tensor) -> Tensor:
    """f'(w) at each position."""
    interval, place = split(positions, PLACE_BITS)
    place = place * 2.0**-PLACE_BITS
    # One gather a column: XLA fuses those into a single loop, a gather of rows not.
    a, b, c, d = (ops.take(cubics[:, power], interval) for power in range(4))
    return a + place * (b + place * (c + place * d))


@compiled
def _histogram(positions: Tensor, steps: Tensor) -> Tensor:
    """Sums of place^0 ... place^3 over the weights in each of the knot intervals, (G, 4).

    Every interval has bins, of which the number of weights and the sum of their places are
    kept; within a bin, of a 32nd of a component's width, weights are taken to spread evenly.
    """
    bins, place = split(positions, PLACE_BITS - PART_BITS)
    place = place * 2.0**-PLACE_BITS - 0.5 * 2.0**-PART_BITS
    # Two columns in one pass over the weights take no more time than one.
    columns = ops.stack([ops.ones_like(place), place], axis=-1)
    num_knots = _size(steps)
    sums = ops.segment_sum(columns, bins, num_knots << PART_BITS)
    return ops.matmul(ops.reshape(sums, (num_knots, -1)), _moments().astype("float32"))


def _moments() -> np.ndarray:
    """From each bin's sums of (place - centre)^0 and ^1 to its sums of place^0 ... place^3."""
    length = 2.0**-PART_BITS
    centre = length * (np.arange(1 << PART_BITS) + 0.5)
    spread = length**2 / 12
    one, zero = np.ones_like(centre), np.zeros_like(centre)
    of_number = one, centre, centre**2 + spread, centre**3 + 3 * centre * spread
    of_places = zero, one, 2 * centre, 3 * centre**2
    moments = np.stack([np.stack(of_number, axis=-1), np.stack(of_places, axis=-1)], axis=1)
    return moments.reshape(-1, 4)
