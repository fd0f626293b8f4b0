"""The mixture's negative log-density of many scalar weights, by table.

The weights are scalars, so f(w) = -log p(w) is a function of one number. It is
evaluated exactly, with its derivative, at some three thousand knots; each weight reads a
cubic Hermite polynomial between two knots. Cost per step: O(|W| + G K) in place of
O(|W| K).

The knots are placed in two levels. Fixed cells, narrow near zero and ever wider towards
infinity, cover every weight without a look at their range, so an outlier cannot coarsen
the rest. Each cell is then divided in proportion to what the mixture demands there:
narrow components and sharp transitions get most of the knots.

All functions take and return tensors of the active Keras backend.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmot_sws.compilation import compiled, in_slices, value_and_gradients, with_gradients
from tfmot_sws.density import MixtureTensors, derivatives, negative_log_prob
from tfmot_sws.packing import Packing

NUM_CELLS = 512
NUM_KNOTS = 3072
# A component is resolved this many of its widths to each side, each with some knots.
REACH = 8.0
KNOTS_A_WIDTH = 2.0
# The most knots that the change from one component to another in a cell asks for.
MAX_BEND = 128.0
# Fewer weights than this are evaluated one by one: exact, and no slower.
EXACT_BELOW = 4096
# Tensors below this size are read as one: each reading costs as much as some thousand weights.
SMALL = 1 << 15
# Larger tensors are read in slices of at most this size: what is computed in between, some 30
# bytes a weight, is held for one or two of them only. Float32 sums of ones stay exact as well.
SLICE = 1 << 18

Tensor = Any


class _Cells(NamedTuple):
    """First level: per cell its left edge, knots per unit of w, and first knot."""

    left: Tensor
    density: Tensor
    first: Tensor


class _Table(NamedTuple):
    """Cells, the ends of the knot intervals, (NUM_KNOTS + 1,), and their lengths, (NUM_KNOTS,).

    slopes: cubics of f' on every interval, (NUM_KNOTS, 4). They are not the derivatives of
    f's cubics: those would take the difference of large values over a small step.
    """

    cells: _Cells
    knots: Tensor
    steps: Tensor
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
    total, in_mixture = _total_of_histogram(histogram, table.knots, table.steps, mixture)
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
    cells = _place_knots(mixture)
    knots, steps = _knots(cells)
    _, slope, bend = derivatives(knots, mixture)
    slopes = _hermite(slope[:-1], slope[1:], bend[:-1] * steps, bend[1:] * steps)
    return _Table(cells, knots, steps, slopes)


@compiled
def _total_of_histogram(
    histogram: Tensor, knots: Tensor, steps: Tensor, mixture: MixtureTensors
) -> tuple[Tensor, list[Tensor]]:
    """The total over all weights, and its gradients in the mixture's fields.

    With the sums of the polynomial's powers in each knot interval, as of `_read`, it is
    linear in the cubics of f, through which the mixture gets its gradient.
    """

    def total(*fields: Tensor) -> Tensor:
        value, slope, _ = derivatives(knots, MixtureTensors(*fields))
        cubics = _hermite(value[:-1], value[1:], slope[:-1] * steps, slope[1:] * steps)
        return ops.sum(histogram * cubics)

    return value_and_gradients(total, list(mixture))


def _unit_edges() -> np.ndarray:
    """Cell edges for a mixture of unit extent: equal steps of x / (1 + |x|)."""
    bounded = np.linspace(-1.0, 1.0, NUM_CELLS + 1) * (1.0 - 0.5 / NUM_CELLS)
    return bounded / (1.0 - np.abs(bounded))


def _extent(mixture: MixtureTensors) -> Tensor:
    """The distance from zero within which the living components have their mass."""
    reach = ops.abs(mixture.means) + 3.0 * ops.exp(-0.5 * mixture.log_precisions)
    return ops.max(ops.where(mixture.alive, reach, 0.0))


def _cell_of(points: Tensor, extent: Tensor) -> Tensor:
    """Index of the cell that each point lies in, int32."""
    scaled = points / extent
    bounded = scaled / (1.0 + ops.abs(scaled)) / (1.0 - 0.5 / NUM_CELLS)
    position = ops.floor((bounded + 1.0) * (0.5 * NUM_CELLS))
    return ops.cast(ops.clip(position, 0, NUM_CELLS - 1), "int32")


def _place_knots(mixture: MixtureTensors) -> _Cells:
    """Divides the cells so that about `NUM_KNOTS` knots lie where they are needed."""
    edges = _extent(mixture) * ops.convert_to_tensor(_unit_edges(), "float32")
    left, right = edges[:-1], edges[1:]
    widths = KNOTS_A_WIDTH * _width_demand(left, right, mixture)
    bends = _bend_demand(edges, mixture)
    demand = ops.maximum(widths, MAX_BEND * bends / (MAX_BEND + bends))
    spare = NUM_KNOTS - NUM_CELLS - 1
    count = 1.0 + ops.floor(spare * demand / ops.sum(demand))
    first = ops.cumsum(count) - count
    return _Cells(left, count / (right - left), first)


def _width_demand(left: Tensor, right: Tensor, mixture: MixtureTensors) -> Tensor:
    """Length of each cell in units of the narrowest component that reaches into it."""
    columns = mixture.as_columns()

    def position(edge: Tensor) -> Tensor:
        scale = ops.exp(0.5 * columns.log_precisions)
        return ops.clip((edge - columns.means) * scale, -REACH, REACH)

    overlap = position(right) - position(left)
    return ops.max(ops.where(columns.alive, overlap, 0.0), axis=0)


def _bend_demand(edges: Tensor, mixture: MixtureTensors) -> Tensor:
    """How far f' is from a straight line in each cell, times the cell's length: nats.

    f' is straight where one component rules and bends where two change over: sharply,
    where both are narrow and far apart. The tails of a change show in the cells beside.
    """
    _, slope, bend = derivatives(edges, mixture)
    length = edges[1:] - edges[:-1]
    rise = slope[1:] - slope[:-1]
    off = ops.abs(rise - length * bend[:-1]) + ops.abs(rise - length * bend[1:])
    return 0.5 * length * off


def _knots(cells: _Cells) -> tuple[Tensor, Tensor]:
    """The ends of the knot intervals, and their lengths."""
    interval = ops.arange(NUM_KNOTS, dtype="float32")
    # Every cell marks its first knot; the running count of marks is the cell's number.
    marks = ops.segment_sum(
        ops.ones_like(cells.first), ops.cast(cells.first, "int32"), NUM_KNOTS
    )
    cell = ops.cast(ops.cumsum(marks), "int32") - 1
    steps = 1.0 / ops.take(cells.density, cell)
    left = ops.take(cells.left, cell) + steps * (interval - ops.take(cells.first, cell))
    # Each interval ends where the next begins, so every knot is evaluated once.
    return ops.concatenate([left, left[-1:] + steps[-1:]]), steps


def _hermite(value_0: Tensor, value_1: Tensor, slope_0: Tensor, slope_1: Tensor) -> Tensor:
    """Coefficients of the cubic through both ends of each interval, shape (G, 4)."""
    rise = value_1 - value_0
    return ops.stack(
        [value_0, slope_0, 3 * rise - 2 * slope_0 - slope_1, slope_0 + slope_1 - 2 * rise],
        axis=-1,
    )


@compiled
def _read(weights: Tensor, table: _Table) -> tuple[Tensor, Tensor]:
    """What the table says of some weights.

    Returns:
        Sums of place^0 ... place^3 over the weights in each knot interval, shape
        (NUM_KNOTS, 4), and f'(w) of every weight.
    """
    interval, place = _locate(weights, table.cells)
    # One gather a column: XLA fuses those into a single loop, a gather of rows not.
    a, b, c, d = (ops.take(table.slopes[:, power], interval) for power in range(4))
    slopes = a + place * (b + place * (c + place * d))
    # Four columns in one pass over the weights take little more time than one.
    powers = ops.stack([ops.ones_like(place), place, place**2, place**3], axis=-1)
    sums = ops.segment_sum(powers, interval, NUM_KNOTS)
    return sums, slopes


def _locate(weights: Tensor, cells: _Cells) -> tuple[Tensor, Tensor]:
    """Knot interval (int32) and place in it (0..1) of every weight.

    Rounding may put a weight at the edge of a cell into the neighbour's interval, with
    a place just outside of [0, 1]: the same point of the same polynomial.
    """
    extent = cells.left[-1] / float(_unit_edges()[-2])
    cell = _cell_of(weights, extent)
    left, density, first = (ops.take(field, cell) for field in cells)
    position = (weights - left) * density
    interval = ops.clip(first + ops.floor(position), 0.0, NUM_KNOTS - 1.0)
    return ops.cast(interval, "int32"), position - (interval - first)
