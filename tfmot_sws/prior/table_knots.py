"""Places the knots of the density's table, and finds the position of a weight among them.

The number line is divided in two steps. First into fixed cells: even ones where the components
are, and cells that grow with the distance beyond, so that outliers need no special treatment.
Then each cell is divided evenly, into more intervals where -log p(w) changes faster.

The cell of a weight follows from arithmetic alone, without a search.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmot_sws.backend.slices import bits_of
from tfmot_sws.prior.density import MixtureTensors, derivatives

# Cells on each side of zero: even ones up to `_cell_range`, then some in each doubling of the
# distance.
EVEN_CELLS = 256
CELLS_PER_OCTAVE = 8
NUM_OCTAVES = 20
# A position is an int32: the number of an interval, and 19 bits for the place in it. The table
# has as many intervals as the other bits can count.
PLACE_BITS = 19
NUM_INTERVALS = 1 << (31 - PLACE_BITS)
# Components ask for intervals up to this many of their stddevs from the mean.
STDDEVS = 8.0
# Weight of what transitions between components ask for, against one interval per stddev, and
# the most that they ask for in a cell: the largest are far from zero, where few weights are.
TRANSITION_WEIGHT = 2.0
MAX_TRANSITION = 64.0

Tensor = Any

_HALF = EVEN_CELLS + CELLS_PER_OCTAVE * NUM_OCTAVES
# Beyond the even cells, the place in a cell consists of mantissa bits of the distance. A
# float32 has more of them than are used.
_UNUSED_BITS = 23 - (CELLS_PER_OCTAVE.bit_length() - 1) - PLACE_BITS
_BITS_OF_ONE = int(np.float32(1).view("int32"))
# The largest distance within the cells, in units of `_cell_range`.
_FARTHEST = float(np.nextafter(np.float32(2.0**NUM_OCTAVES), np.float32(0)))


class CellTable(NamedTuple):
    """What `locate` reads.

    scale: the reciprocal of `_cell_range`, scalar.
    start: position at which each cell starts, int32, shape (cells,).
    counts: intervals in each cell, int32, shape (cells,).
    """

    scale: Tensor
    start: Tensor
    counts: Tensor


class Knots(NamedTuple):
    """Cells, knots in ascending order, (G + 1,), and the lengths between them, (G,)."""

    cells: CellTable
    ends: Tensor
    steps: Tensor


def place_knots(mixture: MixtureTensors) -> Knots:
    """Computes G + 1 knots for a mixture, where G is `NUM_INTERVALS`."""
    cell_range = _cell_range(mixture)
    edges = cell_range * ops.convert_to_tensor(_unit_edges(), "float32")
    counts = _intervals_per_cell(edges, mixture)
    first = ops.cumsum(counts) - counts
    start = ops.cast(first, "int32") * (1 << PLACE_BITS)
    cells = CellTable(1.0 / cell_range, start, ops.cast(counts, "int32"))
    return Knots(cells, *_divide(edges, counts, first))


def locate(weights: Tensor, cells: CellTable) -> Tensor:
    """Returns the position of every weight, int32: interval and place in it.

    Positions ascend with the weights. NaN gets the position of the largest weight.
    """
    distance = ops.abs(weights * cells.scale)
    # Written so that a comparison with NaN, which is false, selects the bound.
    distance = ops.where(distance < _FARTHEST, distance, _FARTHEST)
    even = ops.cast(ops.minimum(distance, 1.0) * float(EVEN_CELLS << PLACE_BITS), "int32")
    # In each octave the bits of a float32 count evenly, and they carry over to the next.
    bits = bits_of(ops.maximum(distance, 1.0)) - _BITS_OF_ONE
    from_zero = even + _shift_right(bits, _UNUSED_BITS)
    from_left = (_HALF << PLACE_BITS) + ops.where(weights < 0, -from_zero, from_zero)
    cell = _shift_right(from_left, PLACE_BITS)
    place = ops.bitwise_and(from_left, (1 << PLACE_BITS) - 1)
    # The product stays below 2^31: no cell has `NUM_INTERVALS` of them.
    return ops.take(cells.start, cell) + place * ops.take(cells.counts, cell)


def split(positions: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Splits positions into the number without its last bits, int32, and those, float32."""
    last = ops.cast(ops.bitwise_and(positions, (1 << bits) - 1), "float32")
    return _shift_right(positions, bits), last


def _shift_right(numbers: Tensor, bits: int) -> Tensor:
    """Shifts numbers >= 0: a compiler that sees the sign cleared checks no index for it."""
    return ops.right_shift(ops.bitwise_and(numbers, (1 << 31) - 1), bits)


def _cell_range(mixture: MixtureTensors) -> Tensor:
    """Distance from zero up to which cells are even: twice that of any mean + 3 stddevs."""
    distance = ops.abs(mixture.means) + 3.0 * ops.exp(-0.5 * mixture.log_precisions)
    return 2.0 * ops.max(ops.where(mixture.alive, distance, 0.0))


def _unit_edges() -> np.ndarray:
    """Edges of the cells for a range of 1, ascending, shape (cells + 1,)."""
    even = np.arange(EVEN_CELLS) / EVEN_CELLS
    in_octave = 1.0 + np.arange(CELLS_PER_OCTAVE) / CELLS_PER_OCTAVE
    octaves = 2.0 ** np.arange(NUM_OCTAVES)[:, None] * in_octave
    positive = np.concatenate([even, octaves.reshape(-1), [2.0**NUM_OCTAVES]])
    return np.concatenate([-positive[:0:-1], positive])


def _intervals_per_cell(edges: Tensor, mixture: MixtureTensors) -> Tensor:
    """Divides the intervals among the cells: one for each, the others by demand.

    Returns:
        float32 whole numbers >= 1, shape (cells,); their sum is at most `NUM_INTERVALS`.
    """
    transitions = TRANSITION_WEIGHT * ops.sqrt(_transition_demand(edges, mixture))
    transitions = ops.minimum(transitions, MAX_TRANSITION)
    demand = ops.maximum(_stddev_demand(edges, mixture), transitions)
    spare = NUM_INTERVALS - 2 * _HALF - 1
    return 1.0 + ops.floor(spare * demand / ops.sum(demand))


def _stddev_demand(edges: Tensor, mixture: MixtureTensors) -> Tensor:
    """Length of each cell in stddevs of the narrowest component that is near it."""
    columns = mixture.as_columns()
    scale = ops.exp(0.5 * columns.log_precisions)
    position = ops.clip((edges - columns.means) * scale, -STDDEVS, STDDEVS)
    overlap = position[:, 1:] - position[:, :-1]
    return ops.max(ops.where(columns.alive, overlap, 0.0), axis=0)


def _transition_demand(edges: Tensor, mixture: MixtureTensors) -> Tensor:
    """How far f' is from a straight line in each cell, times the cell's length.

    f' is straight where one component is responsible for all weights. Where another takes
    over, f' turns, within a distance that the stddevs do not tell.
    """
    at_edges = derivatives(edges, mixture)
    slope, curvature = at_edges.slope, at_edges.curvature
    length = edges[1:] - edges[:-1]
    change = slope[1:] - slope[:-1]
    off = ops.abs(change - length * curvature[:-1]) + ops.abs(change - length * curvature[1:])
    # Far from zero, cells are long and slopes large: their rounding errors are no transition.
    rounding_error = 1e-6 * (ops.abs(slope[1:]) + ops.abs(slope[:-1]))
    return 0.5 * length * ops.relu(off - rounding_error)


def _divide(edges: Tensor, counts: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the knots, shape (G + 1,), and the lengths between them, (G,)."""
    interval = ops.arange(NUM_INTERVALS, dtype="float32")
    # Marks the first interval of each cell: the running sum of marks counts the cells.
    marks = ops.segment_sum(ops.ones_like(first), ops.cast(first, "int32"), NUM_INTERVALS)
    cell = ops.cast(ops.cumsum(marks), "int32") - 1
    steps = ops.take((edges[1:] - edges[:-1]) / counts, cell)
    left = ops.take(edges[:-1], cell) + steps * (interval - ops.take(first, cell))
    # Each interval ends where the next begins, so every knot is evaluated once.
    return ops.concatenate([left, left[-1:] + steps[-1:]]), steps
