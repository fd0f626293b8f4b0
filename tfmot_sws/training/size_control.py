"""Steers a training so that the `.sws` file ends with the size that was asked for.

Two loops. The fast one sets a common factor on all assignment widths so that the file, as it
would be now, has the size that is planned for now; it needs no gradient and no training step.
The slow one moves tau until that factor is 1, for then the widths are those that follow from
tau and the sensitivities, and the prior pulls as strongly as it decides. (Control engineering
calls this mid-ranging.) The planned size falls along a straight line, in logarithms, from
the one at the beginning to the one asked for. When the rule of the assignment is fixed, tau
is too, and the fast loop only makes up for what the weights drift.

All state is in a variable of the wrapper, so that a killed and resumed training ends like an
uninterrupted one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tfmot_sws.models.entropy import entropy_bits
from tfmot_sws.training.file_meter import FileMeter
from tfmot_sws.training.schedules import linear
from tfmot_sws.training.size_target import ControlState, FileSize
from tfmot_sws.training.strip import stripped_values
from tfmot_sws.training.width_search import search_width

# The training fractions between which the planned size falls.
_START, _END = 0.05, 0.6
# The fraction up to which the planned size says little about tau.
_ROOMY = 0.2
# The share of the factor on the widths that tau takes over at one update. Widths go as the
# root of tau.
_TAKEN_OVER = 0.1
_LARGEST_GAIN, _LARGEST_WIDTH = math.log(1e4), math.log(30.0)
# The largest factor on the widths while tau can still follow, and the error, in size, beyond
# which the fast loop has failed.
_WIDEST, _ANSWERED = math.log(10.0), 0.05
# The fast loop ends once the size is this near, as a logarithm. `finish` measures at most so
# many files.
_NEAR, _FILES = 2e-3, 4
# The file is measured, and not only estimated, once in this share of the training: coding
# takes a second for 50,000 weights.
_MEASURE_EVERY = 0.1
# And once what indices ideally take has changed by so much, as a logarithm.
_MOVED = 0.15


class _Followed(NamedTuple):
    """What the fast loop has come to: a state, and the logarithm of its size over the goal."""

    state: ControlState
    error: float


class SizeControl:
    """Controls the size of the file that a wrapped model becomes.

    Args:
        model: wrapped with a target.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._sharing = model, model.sharing
        variables = [v for group in model.groups for v in group.variables]
        self._num_weights = sum(group.size for group in model.groups)
        self._meter = FileMeter(model.inner, variables, self._sharing.unshared)
        self._dense_bytes = self._meter.dense_bytes

    def update(self, fraction: float, rule_end: float) -> None:
        """Sets the widths for the size that is planned at a training fraction, and tau.

        Args:
            fraction: of the training, 0 to 1.
            rule_end: the fraction from which tau stays as it is.
        """
        if fraction < _START:
            return
        state = self._sharing.control
        if state.fraction < 0:
            state = self._measure(state)
            state = state._replace(start=math.log(self._estimate(state) / self._goal(state)))
        is_due = _slot(fraction) > _slot(state.fraction)
        remaining = linear(1.0, 0.0, start=_START, end=_END)(fraction)
        goal = self._goal(state) * math.exp(state.start * remaining)
        is_fixed = fraction >= rule_end
        widest = _LARGEST_WIDTH if is_fixed else _WIDEST
        state, error = self._follow(state._replace(fraction=fraction), goal, widest)
        # Afterwards, for what was measured says less the further the widths have moved.
        self._set(state)
        if is_due or self._has_moved(state):
            state, error = self._follow(self._measure(state), goal, widest)
            self._set(state)
        if not is_fixed:
            self._set(self._with_gain(state, error))
        self._keep_alive()

    def _keep_alive(self) -> None:
        """Has kernels that the new widths would let die keep some weights.

        At once, for merging would take the components of a kernel without members away. And
        whatever was done before, so that the same widths give the same file again.
        """
        self._sharing.count(following=False, growth=math.inf)

    def _with_gain(self, state: ControlState, error: float) -> ControlState:
        """With a factor on tau that has taken over a share of that on the widths."""
        change = gain_taken_over(state.log_width, error)
        # A file that is smaller than planned does not say that tau is too strong: at first it
        # is large by plan. A prior that is weakened then has to catch up late, when the rate
        # has fallen.
        is_by_plan = state.fraction < _ROOMY or error < -_ANSWERED
        if change < 0 and is_by_plan and self._own_size(state) > self._goal(state):
            change = 0.0
        return state._replace(log_gain=_within(state.log_gain + change, _LARGEST_GAIN))

    def _own_size(self, state: ControlState) -> float:
        """Bytes of the file if the widths followed from tau alone."""
        return self._estimate(state, -state.log_width)

    def finish(self) -> None:
        """Sets the widths by the measured size, not the estimate, for the last step."""
        state = self._measure(self._sharing.control)
        nearest = state
        for _ in range(_FILES):
            if self._miss(nearest) < _NEAR:
                break
            followed = self._follow(state, self._goal(state), _LARGEST_WIDTH)
            state = self._measure(followed.state)
            nearest = min(nearest, state, key=self._miss)
        self._set(nearest)
        self._keep_alive()

    def close(self) -> None:
        """Notes the size of the finished file; the widths stay as they were validated."""
        state = self._with_sizes(self._sharing.control)
        self._sharing.control = state._replace(asked=self._goal(state))

    def logs(self) -> dict[str, float]:
        """The ratio as it stands, and the one that is asked for."""
        state = self._sharing.control
        size = self._estimate(state) if state.fraction >= 0 else self._measure(state).size
        return {
            "compression_ratio": self._dense_bytes / size,
            "target_ratio": self._dense_bytes / self._goal(state),
        }

    def _goal(self, state: ControlState) -> float:
        """The size that is asked for."""
        size = FileSize(total=round(state.others), shared=0)
        return self._sharing.target.num_bytes(self._dense_bytes, size, self._num_weights)

    def _miss(self, state: ControlState) -> float:
        """How far a measured size is from the one asked for, as a logarithm."""
        return abs(math.log(state.size / self._goal(state)))

    def _set(self, state: ControlState) -> None:
        self._sharing.control = state._replace(asked=self._goal(state))
        self._sharing.set_widths()

    def _measure(self, state: ControlState) -> ControlState:
        """With the sizes in the file that a state's widths give."""
        self._set(state)
        self._keep_alive()
        return self._with_sizes(state)

    def _with_sizes(self, state: ControlState) -> ControlState:
        """With the sizes in the file as it would be written now."""
        size = self._meter.measure(stripped_values(self._model, keep_statistics=False))
        ideal = self._ideal_bytes()
        return state._replace(
            others=size.others, cost=size.shared / ideal, ideal=ideal, size=size.total
        )

    def _has_moved(self, state: ControlState) -> bool:
        """Whether the indices are others than those that were measured."""
        return abs(math.log(self._ideal_bytes() / max(state.ideal, 1.0))) > _MOVED

    def _estimate(self, state: ControlState, log_factor: float = 0.0) -> float:
        """Bytes of the file, by what was last measured and the counts as they are.

        Args:
            state: holds what a byte of entropy takes.
            log_factor: logarithm of a factor on the widths as they are.
        """
        return state.others + state.cost * self._ideal_bytes(log_factor)

    def _ideal_bytes(self, log_factor: float = 0.0) -> float:
        """Entropy of the indices, and a float32 for each value but zero."""
        bits = 0.0
        for of_group in self._sharing.counts_at(math.exp(log_factor)):
            bits += sum(entropy_bits(of_tensor) * of_tensor.sum() for of_tensor in of_group)
            bits += 32 * np.count_nonzero(of_group.sum(axis=0)[1:])
        return max(bits / 8, 1.0)

    def _follow(self, state: ControlState, goal: float, widest: float) -> _Followed:
        """Moves the factor on the widths until the estimated size is the goal.

        Where each weight has its nearest value already, narrower widths change nothing: the
        factor then stays where it was. While all trials give too large a file, the widest
        counts even where it changes nothing yet, for wider ones do sooner or later.

        Args:
            state: as the widths are now.
            goal: bytes of the file.
            widest: bound on the logarithm of the factor, unless it lies beyond already.
        """
        first = state.log_width
        best: _Followed | None = None

        def error_at(width: float) -> float:
            nonlocal best
            size = self._estimate(state, width - first)
            error = math.log(size / goal)
            found = _Followed(state._replace(log_width=width, size=size), error)
            if best is None or _is_better(found, best):
                best = found
            return error

        search_width(error_at, first, max(widest, abs(first)), _NEAR)
        assert best is not None
        return best


def _is_better(one: _Followed, other: _Followed) -> bool:
    """Whether a trial is nearer to the goal, or wider where both files are too large."""
    if min(one.error, other.error) > 0 and one.state.log_width > other.state.log_width:
        return True
    return abs(one.error) < abs(other.error) - _NEAR


def gain_taken_over(log_width: float, error: float) -> float:
    """What an update adds to the logarithm of the factor on tau.

    Args:
        log_width: logarithm of the factor on the widths, as the fast loop left it.
        error: logarithm of the size over the planned one, as the fast loop left it.
    """
    push = log_width
    # Where no width makes the file small or large enough, it is the pull that must change.
    if error > _ANSWERED:
        push = max(error, log_width)
    elif error < -_ANSWERED:
        push = min(error, log_width)
    return 2.0 * _TAKEN_OVER * push


def _within(value: float, bound: float) -> float:
    return min(max(value, -bound), bound)


def _slot(fraction: float) -> int:
    return math.floor(fraction / _MEASURE_EVERY + 1e-9)
