"""Schedules: pure functions of the training fraction, from 0 (start) to 1 (end).

A schedule is any callable `fraction -> value`; those here cover the usual shapes. Being
functions of the fraction, they fit trainings of 5 and of 100 epochs alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfmot_sws.arguments import check_numbers

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """The same value throughout."""
    check_numbers(value=value)
    return lambda _: value


def linear(initial: float, final: float, *, start: float = 0.0, end: float = 1.0) -> Schedule:
    """From `initial` to `final` in a straight line between two training fractions.

    Args:
        initial: value up to the fraction `start`.
        final: value from the fraction `end` on.
        start: training fraction in [0, 1].
        end: training fraction in [start, 1]; equal to `start` makes a step.

    Raises:
        ValueError: when the fractions are out of order or range.

    Example:
        >>> [linear(0.0, 1.0, start=0.25, end=0.75)(f) for f in (0.1, 0.5, 0.9)]
        [0.0, 0.5, 1.0]
    """
    check_numbers(initial=initial, final=final)
    progress = _progress(start, end)
    return lambda fraction: initial + (final - initial) * progress(fraction)


def geometric(
    initial: float, final: float, *, start: float = 0.0, end: float = 1.0
) -> Schedule:
    """From `initial` to `final` by equal factors between two training fractions.

    Args:
        initial: value > 0 up to the fraction `start`.
        final: value > 0 from the fraction `end` on.
        start: training fraction in [0, 1].
        end: training fraction in [start, 1].

    Raises:
        ValueError: when a value is not positive or the fractions are out of range.

    Example:
        >>> round(geometric(1.0, 0.01)(0.5), 6)
        0.1
    """
    check_numbers(initial=initial, final=final)
    if not (initial > 0 and final > 0):
        raise ValueError(
            f"A geometric schedule needs values above 0; received {initial} and {final}."
        )
    progress = _progress(start, end)
    return lambda fraction: initial * (final / initial) ** progress(fraction)


def _progress(start: float, end: float) -> Schedule:
    """0 up to `start`, 1 from `end` on, straight between."""
    check_numbers(start=start, end=end)
    if not 0.0 <= start <= end <= 1.0:
        raise ValueError(
            "A schedule needs training fractions with 0 <= start <= end <= 1; received "
            f"start={start}, end={end}."
        )
    if start == end:
        return lambda fraction: float(fraction >= end)
    return lambda fraction: min(max((fraction - start) / (end - start), 0.0), 1.0)


class StepSchedule:
    """Turns a schedule that counts steps, such as one of tfmot, into one of the fraction.

    The value is sparsity(step) over the sparsity at the schedule's end; 0 before
    its first step. How often tfmot would prune (`frequency`) has no meaning here.

    Args:
        schedule: has `begin_step` and `end_step` (-1: without end); called with a step it
            gives a pair of which the second is the sparsity.

    Attributes:
        num_steps: of the whole training; set before the first call.
    """

    def __init__(self, schedule: Any) -> None:
        self._schedule = schedule
        self.num_steps: int | None = None

    def __call__(self, fraction: float) -> float:
        """The value at a training fraction."""
        if self.num_steps is None:
            raise ValueError("A schedule of steps needs num_steps, which `fit` sets.")
        step = round(fraction * self.num_steps)
        if step < self._schedule.begin_step:
            return 0.0
        end = max(self._schedule.end_step, self._schedule.begin_step)
        return self._sparsity(min(step, end)) / max(self._sparsity(end), 1e-9)

    def _sparsity(self, step: int) -> float:
        return float(self._schedule(step)[1])


def by_fraction(schedule: Any) -> Any:
    """A schedule of tfmot as a `StepSchedule`, any other as it is, `None` too."""
    return StepSchedule(schedule) if hasattr(schedule, "begin_step") else schedule
