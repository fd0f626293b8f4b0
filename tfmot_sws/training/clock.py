"""Where a training stands: its steps, and the fraction of it that is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tfmot_sws.training.course import Course

# Schedules are read at most this often in a training, so that a step costs no more.
_UPDATES: Final = 200
# A training renews what it holds at least this often, however few steps it has.
_RENEWALS: Final = 100
# Steps of an epoch while nobody knows how many there are.
_USUAL_STEPS: Final = 1000


class Clock:
    """Counts the steps of a training, over the epochs of its course.

    Args:
        course: which part of the training a call of `fit` is.

    Attributes:
        epoch: the number of the present epoch in the whole training, from 0.
    """

    def __init__(self, course: Course) -> None:
        self.epoch = 0
        self._course = course
        self._params: dict[str, Any] = {}
        self._sharings: Sequence[Any] = ()
        # The last batch that began, and how many steps one call of the step takes.
        self._last_batch, self._stretch = 0, 1

    def begin(self, params: dict[str, Any], sharings: Sequence[Any], stretch: Any) -> None:
        """Starts with a call of `fit`.

        Args:
            params: of the callback, as Keras sets them.
            sharings: the records of the wrapped models, which `fit` tells its steps.
            stretch: steps that one call of the training step takes.
        """
        self._params, self._sharings, self._stretch = params, sharings, stretch
        self._course.begin(params.get("epochs"))

    def begin_batch(self, batch: int) -> None:
        """Sees from the numbers of batches how many steps a call takes."""
        if batch:
            self._stretch = batch - self._last_batch
        self._last_batch = batch

    @property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        return self._course.epochs

    @property
    def steps(self) -> int:
        """Steps an epoch; 0 while nobody knows."""
        return self._params.get("steps") or self._counted_steps() or 0

    def _counted_steps(self) -> int | None:
        """Steps an epoch, as the wrapper's `fit` has counted them."""
        return next((s.steps_per_epoch for s in self._sharings if s.steps_per_epoch), None)

    @property
    def all_steps(self) -> int:
        """Steps of the whole training; 0 while nobody knows."""
        return self.steps * self.epochs

    @property
    def expected_steps(self) -> int:
        """Steps of the whole training, or a guess."""
        return (self.steps or _USUAL_STEPS) * self.epochs

    def step(self, batch: int) -> int:
        """The number of a step in the whole training, from 0."""
        return self.epoch * (self.steps or _USUAL_STEPS) + batch

    def fraction(self, batch: int) -> float:
        """The share of the training, 0 to 1, that is done when a batch begins."""
        steps = self.steps
        within = batch / steps if steps else 0.0
        return (self.epoch + within) / self.epochs

    @property
    def last_fraction(self) -> float:
        """The fraction at which the last call of the training step begins."""
        steps, stretch = _whole(self.steps), _whole(self._stretch)
        last = max(steps - 1, 0) // stretch * stretch
        return (self.epochs - 1 + last / max(steps, 1)) / self.epochs

    def is_last(self, batch: int) -> bool:
        """Whether a batch begins the last call of the training step."""
        is_last_epoch = self.epoch == self.epochs - 1
        return is_last_epoch and 0 < self.steps <= batch + self._stretch

    @property
    def stride(self) -> int:
        """Steps from one reading of the schedules to the next."""
        return max(1, round((self.steps or 1) * self.epochs / _UPDATES))

    @property
    def last_update(self) -> float:
        """The fraction at which schedules were last read in the epoch before the present."""
        steps = max(self.steps, 1)
        last = (steps - 1) // self.stride * self.stride
        return (self.epoch - 1 + last / steps) / self.epochs

    @property
    def period(self) -> int:
        """Steps from one renewal to the next: as set, but fewer in a short training."""
        longest = min(sharing.renewal_period for sharing in self._sharings)
        steps = self.all_steps
        return min(longest, max(1, steps // _RENEWALS)) if steps else longest


def _whole(number: Any) -> int:
    """tf_keras gives tensors and, under `tf.distribute`, variables of several replicas."""
    return int(number.numpy() if hasattr(number, "numpy") else number)
