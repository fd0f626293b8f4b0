"""The mixture's negative log-density of many scalar weights, by table.

The weights are scalars, so f(w) = -log p(w) is a function of one number. It is
evaluated exactly, with its derivatives, at two to four thousand knots; each weight reads a
cubic Hermite polynomial between two knots. Cost per step: O(|W| + G K) in place of
O(|W| K).

The knots are placed in two levels. Fixed cells, narrow near zero and ever wider towards
infinity, cover every weight without a look at their range, so an outlier cannot coarsen
the rest. Each cell is then divided in proportion to what the mixture demands there:
narrow components and sharp transitions get most of the knots.

A weight finds its cell without a search: the cells are the steps in which a float32
counts, a power of two after the other, so they are in the number's bits.

All functions take and return tensors of the active Keras backend.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmot_sws.compilation import (
    bits_of,
    compiled,
    in_slices,
    value_and_gradients,
    with_gradients,
)
from tfmot_sws.density import (
    Derivatives,
    MixtureTensors,
    derivatives,
    mixture_gradients,
    negative_log_prob,
)
from tfmot_sws.packing import Packing

# The cells of either side, outwards: so many in each doubling of UNIT + distance from zero,
# both in extents of the mixture, whose components lie within the first.
UNIT = 2.0**-6
CELLS_IN_OCTAVE = (32,) * 3 + (64,) * 4 + (8,) * 2 + (4,) * 17
# An octave has 2^STEP_BITS steps of the bits, which are divided among its cells.
STEP_BITS = 6
# A position is a fixed-point number: the knot interval, and that many bits of the place in it.
PLACE_BITS = 19
# Knots, and more of them for each component; as many as the positions leave bits for.
KNOTS, KNOTS_A_COMPONENT, MOST_KNOTS = 2048, 16, 1 << (31 - PLACE_BITS)
# The histogram of the weights has 2^PART_BITS bins in each knot interval.
PART_BITS = 4
# A component is resolved this many of its widths to each side, each with some knots.
REACH = 8.0
KNOTS_A_WIDTH = 2.0
# The most knots that the change from one component to another in a cell asks for, and what
# part of them the cells beside it ask for, which the tails of the change reach into.
MAX_BEND = 128.0
BEND_BESIDE = 0.1
# Fewer weights than this are evaluated one by one: exact, and no slower.
EXACT_BELOW = 4096
# Tensors below this size are read as one: each reading costs as much as some thousand weights.
SMALL = 1 << 15
# Larger tensors are read in slices of at most this size: what is computed in between, some 30
# bytes a weight, is held for one or two of them only. Float32 sums of ones stay exact as well.
SLICE = 1 << 18

Tensor = Any


def _bits(number: float) -> int:
    return int(np.float32(number).view("int32"))


# Mantissa bits that tell places within a step.
_LOW_BITS = 23 - STEP_BITS
_NUM_STEPS = len(CELLS_IN_OCTAVE) << STEP_BITS
# The largest number within the cells.
_FARTHEST = float(np.nextafter(np.float32(UNIT * 2.0 ** len(CELLS_IN_OCTAVE)), np.float32(0)))


class _Cells(NamedTuple):
    """First level: per cell its left edge, its length, its knots, and the first of them."""

    left: Tensor
    length: Tensor
    count: Tensor
    first: Tensor


class _Ruler(NamedTuple):
    """From a weight to its position.

    scale: to measure weights in, the reciprocal extent; scalar.
    start, rise: for each step of the bits, negative weights first, each side outwards: the
        position it starts at, int32, and how far that goes on with the next bit, float32.
    """

    scale: Tensor
    start: Tensor
    rise: Tensor


class _Table(NamedTuple):
    """Ruler, the ends of the knot intervals, (G + 1,), and their lengths, (G,).

    at_knots: f and its derivatives at those ends.
    slopes: cubics of f' on every interval, (G, 4). They are not the derivatives of
        f's cubics: those would take the difference of large values over a small step.
    """

    ruler: _Ruler
    knots: Tensor
    steps: Tensor
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
    extent = _extent(mixture)
    cells = _place_knots(extent, mixture)
    knots, steps = _knots(cells, _num_knots(mixture))
    at_knots = derivatives(knots, mixture)
    slopes = _hermite(at_knots.slope, at_knots.bend, steps)
    return _Table(_ruler(extent, cells), knots, steps, at_knots, slopes)


@compiled
def _total_of_histogram(
    histogram: Tensor, table: _Table, mixture: MixtureTensors
) -> tuple[Tensor, MixtureTensors]:
    """The total over all weights, and its gradients in the mixture's fields.

    With the sums of the polynomial's powers in each knot interval, as of `_read`, it is
    linear in the cubics of f, through which the mixture gets its gradient.
    """

    def total(value: Tensor, slope: Tensor) -> Tensor:
        return ops.sum(histogram * _hermite(value, slope, table.steps))

    at_knots = table.at_knots
    result, by_knots = value_and_gradients(total, [at_knots.value, at_knots.slope])
    return result, mixture_gradients(table.knots, mixture, at_knots, *by_knots)


def _unit_edges() -> np.ndarray:
    """Cell edges for a mixture of unit extent, ascending, shape (cells + 1,)."""
    outwards = [
        UNIT * (2.0**octave * (1.0 + cell / cells) - 1.0)
        for octave, cells in enumerate((*CELLS_IN_OCTAVE, 1))
        for cell in range(cells)
    ]
    return np.array([-edge for edge in outwards[:0:-1]] + outwards)


def _extent(mixture: MixtureTensors) -> Tensor:
    """The distance from zero within which the living components have their mass."""
    reach = ops.abs(mixture.means) + 3.0 * ops.exp(-0.5 * mixture.log_precisions)
    return ops.max(ops.where(mixture.alive, reach, 0.0))


def _place_knots(extent: Tensor, mixture: MixtureTensors) -> _Cells:
    """Divides the cells so that the knots lie where they are needed."""
    edges = extent * ops.convert_to_tensor(_unit_edges(), "float32")
    left, right = edges[:-1], edges[1:]
    widths = KNOTS_A_WIDTH * _width_demand(left, right, mixture)
    bends = _bend_demand(edges, mixture)
    demand = ops.maximum(widths, MAX_BEND * bends / (MAX_BEND + bends))
    spare = _num_knots(mixture) - 2 * sum(CELLS_IN_OCTAVE) - 1
    count = 1.0 + ops.floor(spare * demand / ops.sum(demand))
    first = ops.cumsum(count) - count
    return _Cells(left, right - left, count, first)


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
    where both are narrow and far apart.
    """
    _, slope, bend, _ = derivatives(edges, mixture)
    length = edges[1:] - edges[:-1]
    rise = slope[1:] - slope[:-1]
    off = ops.abs(rise - length * bend[:-1]) + ops.abs(rise - length * bend[1:])
    # Far out, where cells are long and slopes large, roundings must not be taken for bends.
    roundings = 1e-6 * (ops.abs(slope[1:]) + ops.abs(slope[:-1]))
    bends = 0.5 * length * ops.relu(off - roundings)
    beside = ops.pad(bends, [[1, 1]])
    return ops.maximum(bends, BEND_BESIDE * ops.maximum(beside[:-2], beside[2:]))


def _num_knots(mixture: MixtureTensors) -> int:
    return min(KNOTS + KNOTS_A_COMPONENT * _size(mixture.means), MOST_KNOTS)


def _knots(cells: _Cells, num_knots: int) -> tuple[Tensor, Tensor]:
    """The ends of the knot intervals, and their lengths."""
    interval = ops.arange(num_knots, dtype="float32")
    # Every cell marks its first knot; the running count of marks is the cell's number.
    marks = ops.segment_sum(
        ops.ones_like(cells.first), ops.cast(cells.first, "int32"), num_knots
    )
    cell = ops.cast(ops.cumsum(marks), "int32") - 1
    steps = ops.take(cells.length / cells.count, cell)
    left = ops.take(cells.left, cell) + steps * (interval - ops.take(cells.first, cell))
    # Each interval ends where the next begins, so every knot is evaluated once.
    return ops.concatenate([left, left[-1:] + steps[-1:]]), steps


def _hermite(values: Tensor, slopes: Tensor, steps: Tensor) -> Tensor:
    """Coefficients of the cubic through both ends of each interval, shape (G, 4)."""
    value, rise = values[:-1], values[1:] - values[:-1]
    slope_0, slope_1 = slopes[:-1] * steps, slopes[1:] * steps
    return ops.stack(
        [value, slope_0, 3 * rise - 2 * slope_0 - slope_1, slope_0 + slope_1 - 2 * rise],
        axis=-1,
    )


def _ruler(extent: Tensor, cells: _Cells) -> _Ruler:
    """Divides the cells into the steps of the bits."""
    cells_in_octave = np.array(CELLS_IN_OCTAVE)[:, None]
    first_cell = np.cumsum(cells_in_octave, axis=0) - cells_in_octave
    # Of every step, outwards: its cell, what part of that it makes up and what lies before it.
    position = np.arange(1 << STEP_BITS) / (1 << STEP_BITS) * cells_in_octave
    cell = (first_cell + np.floor(position)).astype("int32").reshape(-1)
    before = (position % 1.0).reshape(-1)
    part = np.repeat(cells_in_octave / (1 << STEP_BITS), 1 << STEP_BITS)

    half = sum(CELLS_IN_OCTAVE)
    cell = np.concatenate([half - 1 - cell, half + cell])
    before = np.concatenate([1.0 - before, before]).astype("float32")
    part = np.concatenate([-part, part]) * 2.0 ** (PLACE_BITS - _LOW_BITS)
    first, count = ops.take(cells.first, cell), ops.take(cells.count, cell)
    start = (first + count * before) * float(1 << PLACE_BITS)
    return _Ruler(1.0 / extent, ops.cast(start, "int32"), count * part.astype("float32"))


def _read(weights: Tensor, table: _Table) -> tuple[Tensor, Tensor]:
    """What the table says of some weights.

    Returns:
        Sums of place^0 ... place^3 over the weights in each knot interval, shape (G, 4),
        and f'(w) of every weight.
    """
    # Three programs: in one, XLA would locate the weights once for each of the other two.
    positions = _locate(weights, table.ruler)
    return _histogram(positions, table.steps), _slopes(positions, table.slopes)


@compiled
def _locate(weights: Tensor, ruler: _Ruler) -> Tensor:
    """The position of every weight, int32: knot interval and place in it.

    The last mantissa bits of a float32 go on evenly within a step, and its place among the
    knots goes with them: it is as precise as the weight itself.
    """
    distance = ops.abs(weights * ruler.scale) + UNIT
    # The other way round, NaN would pass.
    distance = ops.where(distance < _FARTHEST, distance, _FARTHEST)
    bits = bits_of(distance) - _bits(UNIT)
    outwards = _shift_right(bits, _LOW_BITS)
    step = outwards + ops.where(weights < 0, 0, _NUM_STEPS)
    low = ops.cast(ops.bitwise_and(bits, (1 << _LOW_BITS) - 1), "float32")
    ahead = ops.cast(low * ops.take(ruler.rise, step), "int32")
    return ops.take(ruler.start, step) + ahead


@compiled
def _slopes(positions: Tensor, cubics: Tensor) -> Tensor:
    """f'(w) at each position."""
    interval, place = _split(positions, PLACE_BITS)
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
    bins, place = _split(positions, PLACE_BITS - PART_BITS)
    place = place * 2.0**-PLACE_BITS - 0.5 * 2.0**-PART_BITS
    # Two columns in one pass over the weights take no more time than one.
    columns = ops.stack([ops.ones_like(place), place], axis=-1)
    num_knots = _size(steps)
    sums = ops.segment_sum(columns, bins, num_knots << PART_BITS)
    return ops.matmul(ops.reshape(sums, (num_knots, -1)), _moments().astype("float32"))


def _split(positions: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The number without its last bits, int32, and those, float32."""
    last = ops.cast(ops.bitwise_and(positions, (1 << bits) - 1), "float32")
    return _shift_right(positions, bits), last


def _shift_right(numbers: Tensor, bits: int) -> Tensor:
    """Of numbers that are not negative: once a compiler knows, it tests no index for that."""
    return ops.right_shift(ops.bitwise_and(numbers, (1 << 31) - 1), bits)


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
