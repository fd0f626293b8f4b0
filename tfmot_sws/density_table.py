"""The mixture's negative log-density of many scalar weights, by table.

The weights are scalars, so f(w) = -log p(w) is a function of one number. It is
evaluated exactly, with its derivative, at a few thousand knots; each weight reads a
cubic Hermite polynomial between two knots. Cost per step: O(|W| + G K) in place of
O(|W| K).

The knots are placed in two levels. Fixed cells, narrow near zero and ever wider towards
infinity, cover every weight without a look at their range, so an outlier cannot coarsen
the rest. Each cell is then divided in proportion to what the mixture demands there:
narrow components and sharp transitions get most of the knots.

All functions take and return tensors of the active Keras backend.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmot_sws.compilation import compiled, custom_gradient

NUM_CELLS = 1024
NUM_KNOTS = 6144
# A component is resolved this many of its widths to each side, each with some knots.
REACH = 8.0
KNOTS_A_WIDTH = 2.0
# The most knots that the change from one component to another in a cell asks for.
MAX_BEND = 128.0
# Fewer weights than this are evaluated one by one: exact, and no slower.
EXACT_BELOW = 4096
# Tensors below this size are read as one: each reading costs as much as some thousand weights.
SMALL = 1 << 15
# Larger tensors are read in slices of this size: what is computed in between, some 30 bytes a
# weight, is held for one or two of them only. Float32 sums of ones stay exact as well.
SLICE = 1 << 18
# Log-proportion of a component that has died: exp() of it is 0, its gradient too.
DEAD = -1e30

Tensor = Any


class MixtureTensors(NamedTuple):
    """The mixture in the form that training reads, each of shape (K,), float32.

    means mu_k; log_precisions gamma_k = -2 log sigma_k; log_proportions log pi_k, which
    is `DEAD` for components that have died.
    """

    means: Tensor
    log_precisions: Tensor
    log_proportions: Tensor


class _Cells(NamedTuple):
    """First level: per cell its left edge, knots per unit of w, and first knot."""

    left: Tensor
    density: Tensor
    first: Tensor


class _Table(NamedTuple):
    """Cells, and cubics of f and of f' on every knot interval, each (NUM_KNOTS, 4).

    The slopes have cubics of their own, because the derivative of f's would take the
    difference of large values over a small step.
    """

    cells: _Cells
    values: Tensor
    slopes: Tensor


def negative_log_prob(weights: Tensor, mixture: MixtureTensors) -> Tensor:
    """-log p(w) by the defining formula, O(|W| K); `weights` of any shape."""
    return -ops.logsumexp(_component_log_prob(weights, mixture), axis=-1)


def total_negative_log_prob(weights: list[Tensor], mixture: MixtureTensors) -> Tensor:
    """-sum_i log p(w_i) over all weights, differentiable in weights and mixture.

    Args:
        weights: float32 tensors of any static shapes.
        mixture: the mixture's tensors.

    Returns:
        Scalar. Its gradient in each weight is that of the table's polynomial; its
        gradient in the mixture passes through the knots.
    """
    if sum(_size(tensor) for tensor in weights) < EXACT_BELOW:
        return sum(ops.sum(negative_log_prob(tensor, mixture)) for tensor in weights)
    table = _tabulate(mixture)
    histogram, slopes = _read_all([ops.stop_gradient(tensor) for tensor in weights], table)
    # The polynomial's powers are summed per knot interval: the value is then linear in
    # the coefficients, through which the mixture gets its exact gradient.
    value = ops.sum(ops.stop_gradient(histogram) * table.values)
    return with_gradients(value, weights, slopes)


def with_gradients(value: Tensor, tensors: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """The value, which hands the given gradients on to the tensors, times its own.

    Args:
        value: scalar; a gradient of its own is handed on as well.
        tensors: of any shapes; not read.
        gradients: one for each of them, of its shape.
    """

    @custom_gradient
    def linked(value: Tensor, *_: Tensor) -> tuple[list[Tensor], Any]:
        def gradient(upstream: list[Tensor]) -> list[Tensor]:
            return [upstream[0], *(upstream[0] * g for g in gradients)]

        return [value], gradient

    return linked(value, *tensors)[0]


def _read_all(weights: list[Tensor], table: _Table) -> tuple[Tensor, list[Tensor]]:
    """Histogram of all the tensors together, and the slopes of each."""
    small = [i for i, tensor in enumerate(weights) if _size(tensor) < SMALL]
    slopes = list(weights)
    histogram = 0.0
    if small:
        flat = ops.concatenate([ops.reshape(weights[i], (-1,)) for i in small])
        part, joined = _read_slices(flat, table)
        histogram += part
        begin = 0
        for i in small:
            end = begin + _size(weights[i])
            slopes[i] = ops.reshape(joined[begin:end], weights[i].shape)
            begin = end
    for i, tensor in enumerate(weights):
        if i not in small:
            part, slopes[i] = _read_slices(tensor, table)
            histogram += part
    return histogram, slopes


def _read_slices(weights: Tensor, table: _Table) -> tuple[Tensor, Tensor]:
    """Histogram and slopes of a tensor, in slices where it is large."""
    if _size(weights) <= SLICE:
        return _read(weights, table)
    flat = ops.reshape(weights, (-1,))
    parts = [_read(flat[i : i + SLICE], table) for i in range(0, _size(weights), SLICE)]
    slopes = ops.concatenate([slope for _, slope in parts])
    return sum(part for part, _ in parts), ops.reshape(slopes, weights.shape)


def _size(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape))


@compiled
def _tabulate(mixture: MixtureTensors) -> _Table:
    cells = _Cells(*(ops.stop_gradient(field) for field in _place_knots(mixture)))
    return _Table(cells, *_coefficients(cells, mixture))


def _component_log_prob(points: Tensor, mixture: MixtureTensors) -> Tensor:
    """log(pi_k N(w; mu_k, 1 / lambda_k)) for points of shape S: shape S + (K,)."""
    distance = ops.expand_dims(points, -1) - mixture.means
    exponent = 0.5 * ops.exp(mixture.log_precisions) * ops.square(distance)
    log_norm = 0.5 * (mixture.log_precisions - float(np.log(2 * np.pi)))
    return mixture.log_proportions + log_norm - exponent


def _derivatives(points: Tensor, mixture: MixtureTensors) -> tuple[Tensor, Tensor, Tensor]:
    """f(w), f'(w) and f''(w) at points of shape (G,)."""
    joint = _component_log_prob(points, mixture)
    log_prob = ops.logsumexp(joint, axis=-1)
    responsibilities = ops.exp(joint - ops.expand_dims(log_prob, -1))
    precisions = ops.exp(mixture.log_precisions)
    pull = precisions * (ops.expand_dims(points, -1) - mixture.means)
    slope = ops.sum(responsibilities * pull, axis=-1)
    spread = ops.square(pull - ops.expand_dims(slope, -1))
    return -log_prob, slope, ops.sum(responsibilities * (precisions - spread), axis=-1)


def _unit_edges() -> np.ndarray:
    """Cell edges for a mixture of unit extent: equal steps of x / (1 + |x|)."""
    bounded = np.linspace(-1.0, 1.0, NUM_CELLS + 1) * (1.0 - 0.5 / NUM_CELLS)
    return bounded / (1.0 - np.abs(bounded))


def _extent(mixture: MixtureTensors) -> Tensor:
    """The distance from zero within which the living components have their mass."""
    reach = ops.abs(mixture.means) + 3.0 * ops.exp(-0.5 * mixture.log_precisions)
    return ops.max(ops.where(mixture.log_proportions > 0.5 * DEAD, reach, 0.0))


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
    scale = ops.exp(0.5 * mixture.log_precisions)

    def position(edge: Tensor) -> Tensor:
        return ops.clip((ops.expand_dims(edge, -1) - mixture.means) * scale, -REACH, REACH)

    overlap = position(right) - position(left)
    alive = mixture.log_proportions > 0.5 * DEAD
    return ops.max(ops.where(alive, overlap, 0.0), axis=-1)


def _bend_demand(edges: Tensor, mixture: MixtureTensors) -> Tensor:
    """How far f' is from a straight line in each cell, times the cell's length: nats.

    f' is straight where one component rules and bends where two change over: sharply,
    where both are narrow and far apart. The tails of a change show in the cells beside.
    """
    _, slope, bend = _derivatives(edges, mixture)
    length = edges[1:] - edges[:-1]
    rise = slope[1:] - slope[:-1]
    off = ops.abs(rise - length * bend[:-1]) + ops.abs(rise - length * bend[1:])
    return 0.5 * length * off


def _coefficients(cells: _Cells, mixture: MixtureTensors) -> tuple[Tensor, Tensor]:
    """The cubics of f and of f' on every knot interval."""
    interval = ops.arange(NUM_KNOTS, dtype="float32")
    # Every cell marks its first knot; the running count of marks is the cell's number.
    marks = ops.segment_sum(
        ops.ones_like(cells.first), ops.cast(cells.first, "int32"), NUM_KNOTS
    )
    cell = ops.cast(ops.cumsum(marks), "int32") - 1
    step = 1.0 / ops.take(cells.density, cell)
    left = ops.take(cells.left, cell) + step * (interval - ops.take(cells.first, cell))
    # Each interval ends where the next begins, so every knot is evaluated once. The gradient
    # ends here: that of a concatenation does not compile within a step under XLA.
    knots = ops.stop_gradient(ops.concatenate([left, left[-1:] + step[-1:]]))
    value, slope, bend = _derivatives(knots, mixture)
    return (
        _hermite(value[:-1], value[1:], slope[:-1] * step, slope[1:] * step),
        ops.stop_gradient(_hermite(slope[:-1], slope[1:], bend[:-1] * step, bend[1:] * step)),
    )


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
    sums = ops.segment_sum(
        ops.reshape(powers, (-1, 4)), ops.reshape(interval, (-1,)), NUM_KNOTS
    )
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
