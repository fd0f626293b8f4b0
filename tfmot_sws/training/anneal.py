"""The callback that runs a training: it anneals, snaps, merges, and logs.

Schedules are pure functions of the training fraction, and the callback writes their values
into variables. All state lives in variables, so that a training that is killed and resumed
by `BackupAndRestore` ends like an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tfmot_sws.advice import warn
from tfmot_sws.arguments import check_kind, check_numbers
from tfmot_sws.backend.scalars import to_float
from tfmot_sws.models.wrapped import check_can_be_stripped, wrapped_parts
from tfmot_sws.training.callback_hooks import RunsInTfKeras
from tfmot_sws.training.clock import Clock
from tfmot_sws.training.course import IN_A_LOOP, Course
from tfmot_sws.training.epoch_figures import epoch_figures
from tfmot_sws.training.epoch_memories import EpochMemories
from tfmot_sws.training.health import find_problems
from tfmot_sws.training.kept_state import KeptState
from tfmot_sws.training.measurements import Measurements
from tfmot_sws.training.merging import merge_components
from tfmot_sws.training.schedules import Schedule, StepSchedule, by_fraction, constant, linear
from tfmot_sws.training.size_control import SizeControl

# From so many steps on, training repairs what the full widths cost.
_ENOUGH_STEPS = 1000
# The share of the training from one merging to the next.
_MERGE_EVERY = 0.05
_SCHEDULES = ("complexity", "stddev", "assignment", "snap")


class AnnealAndMerge(RunsInTfKeras, keras.callbacks.Callback):
    """Anneals the prior, snaps the weights, merges components, and logs.

    Every setting is a function of the training fraction (epoch and batch over all epochs
    of the training), so 5 and 100 epochs need no other settings, and a training resumed
    with `initial_epoch` or `BackupAndRestore` goes on where it stopped. Where a training is a
    loop of fits, pass the same `AnnealAndMerge(epochs=...)`, with the epochs of all fits
    together, to each of them.

    Each epoch's logs gain `error_loss`, `complexity_loss`, `num_components` (alive),
    `zeros` (share of the shared weights, 0 to 1), `bits_per_weight` (entropy of the
    assignments) and `snap`.

    A schedule of tfmot (`PolynomialDecay`, `ConstantSparsity`) counts steps over all epochs
    of the `fit`. It says here when something happens and not how much: its sparsity over its
    final sparsity, from 0 to 1, takes the place of the factor or share. tau decides how
    sparse the model becomes.

    In its first 70 % it measures, on batches that `fit` has drawn from its data, how
    sensitive the error loss is to each tensor; assignment widths follow from that.

    `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint` of the same `fit` compare only
    epochs that end with the rule fixed and the snap complete: until then they forget each
    epoch at once. Otherwise they would choose a network that is still dense.

    At the end it warns of what would spoil the stripped model: an error loss far above where
    it began, outputs that no longer depend on the inputs, a snap below 1.

    When the loss becomes NaN or infinite, training stops with a warning and the state at
    the end of the last good epoch comes back.

    Args:
        epochs: epochs of the whole training, where it consists of several calls of `fit` that
            all get this object: each goes on where the last one ended. `None`: each `fit` is
            a whole training.
        complexity: factor on the wrapper's complexity weight tau. Default: from 0 to 1
            over the first 5 % of the training.
        stddev: factor on the widths that the hyperpriors prefer. Default: 1.
        assignment: factor on the widths by which weights are assigned: as it grows, more
            and more weights become zero. Default: from 0.25 to 1 between 5 % and 60 %. In a
            training of fewer than 1,000 steps all widths are narrower, as the root of their
            number.
        snap: share of the way from each weight to its mean, 0 to 1; it should end at 1,
            so that stripping changes nothing. Default: from 0 to 1 between 5 % and 20 %.
        merge_threshold: components nearer than this symmetric KL divergence, in nats,
            merge; 0 merges none. Components without weights die in any case. Default: 0.01.
        merge_start: training fraction before which no component dies or merges. Default:
            0.2.
        rule_end: training fraction from which on the rule of the assignment stays as it is:
            no component dies or merges, the proportions follow the usage no longer, and
            sensitivities are not measured. Otherwise weights would change sides after
            BatchNorm's statistics have settled. Default: 0.7.

    Raises:
        ValueError: when an argument is out of range; by `fit`, when it has too few calls of
            its step for the weights to begin to snap, or of tf_keras a single wrapped layer
            lies where stripping could not take it out again.

    Example:
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> from tfmot_sws.training.apply import apply_soft_weight_sharing
        >>> shared = apply_soft_weight_sharing(dense, num_components=3)
        >>> shared.compile("sgd", "mse")
        >>> x, callback = np.ones((8, 4)), AnnealAndMerge(epochs=2)
        >>> for _ in range(2):
        ...     logs = shared.fit(x, x[:, :3], verbose=0, callbacks=[callback]).history
        ...     print(logs["snap"])
        [0.0]
        [1.0]

    References:
        Ullrich et al. 2017, sections 3.2 (merging) and 5.
    """

    def __init__(
        self,
        *,
        epochs: int | None = None,
        complexity: Schedule | None = None,
        stddev: Schedule | None = None,
        assignment: Schedule | None = None,
        snap: Schedule | None = None,
        merge_threshold: float = 1e-2,
        merge_start: float = 0.2,
        rule_end: float = 0.7,
    ) -> None:
        super().__init__()
        self._course = Course(epochs)
        self._clock = Clock(self._course)
        check_numbers(
            merge_threshold=merge_threshold, merge_start=merge_start, rule_end=rule_end
        )
        if not merge_threshold >= 0:
            raise ValueError(f"merge_threshold must be at least 0; received {merge_threshold}.")
        for name, value in (("merge_start", merge_start), ("rule_end", rule_end)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; received {value}.")
        schedules = (complexity, stddev, assignment, snap)
        for name, schedule in zip(_SCHEDULES, schedules, strict=True):
            if schedule is not None:
                check_kind(name, schedule, Callable, "a function of the training fraction")
        self.complexity = by_fraction(complexity) or linear(0.0, 1.0, end=0.05)
        self.stddev = by_fraction(stddev) or constant(1.0)
        self.assignment = by_fraction(assignment) or linear(0.25, 1.0, start=0.05, end=0.6)
        self.snap = by_fraction(snap) or linear(0.0, 1.0, start=0.05, end=0.2)
        self.merge_threshold = merge_threshold
        self.merge_start = merge_start
        self.rule_end = rule_end
        self._sharings: list[Any] = []
        self._first_steps: list[float] = []
        # Batches of the present epoch at which schedules were last set, members counted and
        # losses renewed.
        self._applied = self._counted = self._renewed = 0
        # The twentieth of the training in which components last merged.
        self._merged = -1
        # The factor on tau as it is now, and as it was when losses were last renewed.
        self._factor = self._renewed_factor = 0.0
        self._kept = KeptState()
        self._memories = EpochMemories()
        self._control: SizeControl | None = None
        # Of the present or the last call of `fit`.
        self._measurements: Measurements

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that the model is wrapped, and can be stripped later."""
        check_can_be_stripped(self.model, in_part=True)
        self._sharings = [part.sharing for part in wrapped_parts(self.model)]
        if not self._sharings:
            raise ValueError(
                "AnnealAndMerge works on a model wrapped by apply_soft_weight_sharing; "
                f"received {type(self.model).__name__}."
            )
        self._kept.clear()
        self._merged = -1
        stretch = getattr(self.model, "steps_per_execution", 1)
        self._clock.begin(self.params, self._sharings, stretch)
        for schedule in self._schedules():
            if isinstance(schedule, StepSchedule):
                schedule.num_steps = self._num_steps()
        self._control = self._control_of_size()
        self._check_calls()
        self._measurements = Measurements(self.model)
        for sharing in self._sharings:
            sharing.is_renewed, sharing.is_lost = True, False

    def _control_of_size(self) -> SizeControl | None:
        """Of the model that is to become a file of a stated size, if there is one."""
        # Only whole models have a target.
        parts = [part for part in wrapped_parts(self.model) if part.sharing.target]
        if len(parts) > 1:
            names = ", ".join(f"'{part.name}'" for part in parts)
            raise ValueError(
                f"In one fit the size of one wrapped model can be stated; '{self.model.name}' "
                f"holds {names}. State complexity_weight= for all but one, or fit them one "
                "after the other."
            )
        return SizeControl(parts[0]) if parts else None

    def _check_calls(self) -> None:
        """Raises `ValueError` if the last call of the step comes before the snap begins."""
        fraction = self._clock.last_fraction
        if self.snap(fraction) > 0 or self.snap(1.0) <= 0:
            return
        raise ValueError(
            "No weight would snap to its cluster in this training. AnnealAndMerge sets the "
            f"snap between two calls of the training step, and the last one begins at "
            f"{fraction:.0%} of the training, where the snap is still 0. Train for more epochs "
            "or steps; compile with a smaller steps_per_execution; for data of unknown length "
            f"pass steps_per_epoch= to fit. {IN_A_LOOP}"
        )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the schedules for the first batch."""
        if self._kept.is_empty:
            self._course.place(epoch)
            self._warn_of_loop(epoch)
        self._clock.epoch = self._course.number(epoch)
        if self._kept.is_empty:
            self._kept.take(self.model)
            self._memories.take()
            self._go_on_from(self._clock.step(0))
        for sharing in self._sharings:
            sharing.epoch = self._clock.epoch
        if not self._is_settled(self._clock.fraction(0)):
            self._memories.forget()
        self._apply(self._clock.fraction(0))
        # Here too: an epoch may have fewer steps than pass between two updates.
        self._merge()
        self._count()
        self._renew()
        for sharing in self._sharings:
            sharing.complexity_sum.assign(0.0)
        self._first_steps = [to_float(sharing.steps) for sharing in self._sharings]

    def _warn_of_loop(self, first: int) -> None:
        ended = max(sharing.ended for sharing in self._sharings)
        if self._course.is_started_over(first, ended):
            fraction = self._course.number(first) / self._clock.epochs
            warn(
                f"This fit starts at {fraction:.0%} of a training, and the one before ended at "
                f"{ended:.0%}: each starts the snap and the merging over. {IN_A_LOOP}",
            )

    def accompany(self, callbacks: Iterable[Any]) -> None:
        """Tells which other callbacks run in the same `fit`; the wrapper's `fit` does."""
        self._memories = EpochMemories(callbacks)

    def _is_settled(self, fraction: float) -> bool:
        """Whether networks from here on can be compared with the last one."""
        return fraction >= self.rule_end and self.snap(fraction) >= self.snap(1.0)

    def _go_on_from(self, step: int) -> None:
        """Has a resumed training measure and merge when the interrupted one would have."""
        self._measurements.go_on_from(step)
        fraction = self._clock.last_update
        if fraction >= self.merge_start:
            self._merged = _slot(fraction)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the schedules, measures and renews what steps hold, each once in some steps."""
        self._clock.begin_batch(batch)
        if self._must_measure(batch):
            self._take_state_back()
            self._measurements.measure(self._clock.step(batch))
        if batch - self._applied >= self._clock.stride:
            self._take_state_back()
            self._apply(self._clock.fraction(batch), batch)
            self._merge()
        if batch - self._counted >= max(self._clock.stride, self._clock.period):
            self._take_state_back()
            self._count(batch)
        if self._is_due(batch):
            self._take_state_back()
            self._renew(batch)
        if self._control and self._clock.is_last(batch):
            self._take_state_back()
            self._control.finish()

    def _must_measure(self, batch: int) -> bool:
        is_over = self._clock.fraction(batch) > self.rule_end
        return not is_over and self._measurements.is_due(
            self._clock.step(batch), self._clock.expected_steps
        )

    def _merge(self) -> None:
        """Has components die and merge, once in a twentieth of the training.

        Never at an epoch's end, so that the validation after the last epoch sees the very
        network that stripping returns.
        """
        fraction = self._clock.fraction(self._applied)
        if self.merge_start <= fraction <= self.rule_end and _slot(fraction) > self._merged:
            for sharing in self._sharings:
                threshold = self.merge_threshold * sharing.coarseness
                for group, counts in zip(sharing.groups, sharing.counts(), strict=True):
                    merge_components(group.prior, counts, threshold)
            self._merged = _slot(fraction)

    def _take_state_back(self) -> None:
        """Has variables hold the state, which the JAX trainer keeps within an epoch."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds to the logs; keeps a good state, or brings the last one back."""
        logs = logs if logs is not None else {}
        if np.isfinite(logs.get("loss", 0.0)) and self._take_if_finite():
            logs.update(epoch_figures(self._sharings, self._first_steps, logs))
            logs.update(self._control.logs() if self._control else {})
            self._course.done = self._clock.epoch + 1
            for sharing in self._sharings:
                sharing.ended = self._course.fraction_done
        else:
            self._stop_and_restore(epoch)

    def _take_if_finite(self) -> bool:
        """Keeps the present state if nothing has diverged; says whether that is so."""
        groups = [group for sharing in self._sharings for group in sharing.groups]
        return all(group.prior.is_finite for group in groups) and self._kept.take_if_finite(
            self.model
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Lets go of the kept state; warns where something went wrong."""
        self._kept.clear()
        for sharing in self._sharings:
            sharing.is_renewed = False
        if not any(sharing.is_lost for sharing in self._sharings):
            if self._control:
                self._control.close()
            # In a loop of fits the last one tells.
            if self._course.total is None or self._course.fraction_done == 1.0:
                self._judge()
        self._control = None

    def _judge(self) -> None:
        """Compares the error loss with the pretrained network's, and warns."""
        self._measurements.compare()
        for problem in find_problems(self.model, wrapped_parts(self.model)):
            warn(problem)

    def _stop_and_restore(self, epoch: int) -> None:
        for sharing in self._sharings:
            sharing.is_lost = True
        self.model.stop_training = True
        self._kept.bring_back(self.model)
        warn(
            f"The loss became NaN or infinite in epoch {epoch + 1}: training stops, and "
            "the state at the end of the last good epoch is back in place. Try a smaller "
            "learning rate.",
        )

    def _is_due(self, batch: int) -> bool:
        """Whether held losses are old, or were evaluated with a rather different tau."""
        change = abs(self._factor - self._renewed_factor)
        is_old = batch - self._renewed >= self._clock.period
        return is_old or change > 0.1 * self._renewed_factor

    def _renew(self, batch: int = 0) -> None:
        self._renewed, self._renewed_factor = batch, self._factor
        for sharing in self._sharings:
            sharing.renew()

    def _count(self, batch: int = 0) -> None:
        self._counted = batch
        fraction = self._clock.fraction(batch)
        for sharing in self._sharings:
            sharing.count(following=fraction <= self.rule_end)
        if self._control:
            self._control.update(fraction, self.rule_end)

    def _schedules(self) -> tuple[Schedule, ...]:
        return self.complexity, self.stddev, self.assignment, self.snap

    def _num_steps(self) -> int:
        """Steps of the whole training, which schedules by steps need."""
        if not self._clock.steps:
            raise ValueError(
                "A schedule by steps, such as tfmot's, needs the number of steps an epoch. "
                "Pass steps_per_epoch= to fit, or a schedule of tfmot_sws.training.schedules."
            )
        return self._clock.all_steps

    def _apply(self, fraction: float, batch: int = 0) -> None:
        self._applied, self._factor = batch, self.complexity(fraction)
        for sharing in self._sharings:
            sharing.anneal(
                complexity=self._factor,
                snap=self.snap(fraction),
                stddev=self.stddev(fraction),
                assignment=self.assignment(fraction) * self._patience(),
            )

    def _patience(self) -> float:
        """Narrows widths where there are few steps to repair what they cost."""
        steps = self._clock.all_steps
        return min(1.0, math.sqrt(steps / _ENOUGH_STEPS)) if steps else 1.0


def _slot(fraction: float) -> int:
    """Which twentieth of the training a fraction lies in."""
    return math.floor(fraction / _MERGE_EVERY + 1e-9)
