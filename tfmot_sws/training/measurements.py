"""What a training measures on batches of its data, beside its steps.

As it goes, how sensitive the error loss is to each tensor; before and after, the error loss
itself, by which `health` tells whether the network was ruined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from tfmot_sws.advice import warn
from tfmot_sws.backend.scalars import to_float
from tfmot_sws.models.wrapped import wrapped_parts
from tfmot_sws.training.health import share_of_lost
from tfmot_sws.training.sensitivity import measure_losses, update_sensitivity

# Sensitivities are measured this often in a training, but at most once in so many steps.
_MEASUREMENTS, _STEPS_BETWEEN = 100, 20
# Batches of the first measurement: one says little.
_FIRST_BATCHES = 4


class Measurements:
    """Measures sensitivities and losses in one call of `fit`.

    Args:
        model: the one that is fitted, which is wrapped or holds what is.

    Warns:
        SoftWeightSharingWarning: nothing can be measured, and no tensor's sensitivity is known.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._sharings = [part.sharing for part in wrapped_parts(model)]
        # The training step of the last measurement.
        self._measured = 0
        if not self._batches:
            self._check_sensitivities()

    @property
    def _batches(self) -> list[Any]:
        """Batches that `fit` has drawn from its data; none where it cannot."""
        return getattr(self._model, "batches", None) or []

    def _check_sensitivities(self) -> None:
        """Warns where widths will follow from nothing but the scale of the weights."""
        priors = [group.prior for sharing in self._sharings for group in sharing.groups]
        by_width = [prior for prior in priors if prior.options.assignment_width]
        if all(np.any(ops.convert_to_numpy(prior.sensitivities) > 0) for prior in by_width):
            return
        warn(
            "How sensitive the error is to each tensor cannot be measured during this fit: "
            "it is that of a model around a wrapped one or around single wrapped layers, or "
            "its data is of an unknown kind. All tensors then get the widest assignment, which "
            "may cost accuracy. Call tfmot_sws.measure_sensitivity(model, x, y) on a few "
            "batches before fit.",
        )

    def go_on_from(self, step: int) -> None:
        """Has a resumed training measure when the interrupted one would have."""
        if to_float(self._sharings[0].first_loss):
            self._measured = max(step - 1, 0)

    def is_due(self, step: int, steps: int) -> bool:
        """Whether sensitivities are due; never before the first step, which builds.

        Args:
            step: of the whole training, from 0.
            steps: of the whole training.
        """
        if step < 1 or not self._batches:
            return False
        period = max(_STEPS_BETWEEN, round(steps / _MEASUREMENTS))
        return not self._measured or step // period > self._measured // period

    def measure(self, step: int) -> None:
        """Measures sensitivities, and the first time the error loss to compare with."""
        number = 1 if self._measured else _FIRST_BATCHES
        self._measured = step
        for i in range(number):
            batch = self._batches[(step + i) % len(self._batches)]
            update_sensitivity(self._model, *batch)
        if not to_float(self._sharings[0].first_loss):
            self._sharings[0].first_loss.assign(self._losses()[0])

    def compare(self) -> None:
        """Notes how much of what the pretrained network had learned is lost."""
        before = to_float(self._sharings[0].first_loss)
        if before and self._batches:
            now, by_chance = self._losses()
            self._sharings[0].lost_share.assign(share_of_lost(before, now, by_chance))

    def _losses(self) -> tuple[float, float]:
        """The error loss of some batches, and that to be had by chance, or NaN."""
        batches = self._batches[:_FIRST_BATCHES]
        losses = np.array([measure_losses(self._model, *batch) for batch in batches])
        known = losses[~np.isnan(losses[:, 1]), 1]
        return losses[:, 0].mean(), known.mean() if known.size else np.nan
