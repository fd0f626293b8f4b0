"""Where the table of the mixture's density has its knots, and how a weight finds its place.

The knots are placed in two levels. Fixed cells, narrow near zero and ever wider towards
infinity, cover every weight without a look at their range, so an outlier cannot coarsen
the rest. Each cell is then divided in proportion to what the mixture demands there:
narrow components and sharp transitions get most of the knots.

A weight finds its cell without a search: the cells are the steps in which a float32
counts, a power of two after the other, so they are in the number's bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmot_sws.backend.compilation import bits_of
from tfmot_sws.prior.density import MixtureTensors, derivatives

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
# A component is resolved this many of its widths to each side, each with some knots.
REACH = 8.0
KNOTS_A_WIDTH = 2.0
# The most knots that the change from one component to another in a cell asks for, and what
# part of them the cells beside it ask for, which the tails of the change reach into.
MAX_BEND = 128.0
BEND_BESIDE = 0.1

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


class Ruler(NamedTuple):
    """From a weight to its position.

    scale: to measure weights in, the reciprocal extent; scalar.
    start, rise: for each step of the bits, negative weights first, each side outwards: the
        position it starts at, int32, and how far that goes on with the next bit, float32.
    """

    scale: Tensor
    start: Tensor
    rise: Tensor


class Knots(NamedTuple):
    """Ruler, the ends of the G intervals between knots, (G + 1,), and their lengths, (G,)."""

    ruler: Ruler
    ends: Tensor
    steps: Tensor


def place_knots(mixture: MixtureTensors) -> Knots:
    """The knots for a mixture; their number depends on that of its components alone."""
    extent = _extent(mixture)
    cells = _divide_cells(extent, mixture)
    return Knots(_ruler(extent, cells), *_ends(cells, _num_knots(mixture)))


def locate(weights: Tensor, ruler: Ruler) -> Tensor:
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


def split(positions: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A position without its last bits, int32, and those, float32."""
    last = ops.cast(ops.bitwise_and(positions, (1 << bits) - 1), "float32")
    return _shift_right(positions, bits), last


def _shift_right(numbers: Tensor, bits: int) -> Tensor:
    """Of numbers that are not negative: once a compiler knows, it tests no index for that."""
    return ops.right_shift(ops.bitwise_and(numbers, (1 << 31) - 1), bits)


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


def _divide_cells(extent: Tensor, mixture: MixtureTensors) -> _Cells:
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
    return min(KNOTS + KNOTS_A_COMPONENT * mixture.means.shape[0], MOST_KNOTS)


def _ends(cells: _Cells, num_knots: int) -> tuple[Tensor, Tensor]:
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


def _ruler(extent: Tensor, cells: _Cells) -> Ruler:
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
    return Ruler(1.0 / extent, ops.cast(start, "int32"), count * part.astype("float32"))
