"""Keeps, within one training, every epoch's network that no other beats."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import pathlib
import warnings
from typing import Any

import keras

from tfmot_sws.advice import warn
from tfmot_sws.backend.scalars import to_float
from tfmot_sws.coding.model_file import save_compressed
from tfmot_sws.models.wrapped import check_not_around, wrapped_parts
from tfmot_sws.training.callback_hooks import RunsInTfKeras
from tfmot_sws.training.monitored import is_better_higher
from tfmot_sws.training.strip import strip_soft_weight_sharing
from tfmot_sws.whole_file import replacing

_INDEX = "front.json"


@dataclasses.dataclass(frozen=True)
class FrontRecord:
    """A network that was kept.

    Args:
        epoch: after which it was saved, from 1.
        size: bytes of its file.
        value: the monitored figure.
        file: name of its file in the folder.
    """

    epoch: int
    size: int
    value: float
    file: str


class ParetoFront(RunsInTfKeras, keras.callbacks.Callback):
    """Saves stripped networks that no other epoch's beats in both size and a figure.

    It looks at the epochs that end with the snap complete, by default from 20 % of the
    training on: earlier networks are not those that stripping would give. Assignment widths
    grow until 60 %, so early networks are larger and lose less. Epochs without a validation,
    or with a figure that is not finite, are left out. A file that a later epoch beats in both
    is removed. Files that are in the folder already count, too: a resumed training goes on
    with them, and several trainings may share a front.

    At the end of a training that has kept nothing a warning says so.

    Args:
        folder: where the `.sws` files go, and `front.json` with the records; it is made if
            it is missing.
        monitor: name of the figure in the logs; one of the validation as a rule.
        mode: "max" if a higher figure is better, "min" if a lower one is, "auto" to go by
            the name.

    Attributes:
        records: a `FrontRecord` of each file, the smallest first.

    Raises:
        ValueError: the mode is unknown, or cannot be told from the name; by `fit`, after its
            first epoch, the logs have no such figure.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        monitor: str = "val_loss",
        mode: str = "auto",
    ) -> None:
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.monitor = monitor
        self._sign = 1.0 if is_better_higher(monitor, mode) else -1.0
        self.records: list[FrontRecord] = []
        # Whether the logs of this training have held the figure, and whether one of its
        # networks was kept.
        self._is_known = self._has_kept = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Makes the folder, or reads what an interrupted training has left there."""
        if not wrapped_parts(self.model):
            raise ValueError(
                "ParetoFront works on a model wrapped by apply_soft_weight_sharing; received "
                f"{type(self.model).__name__}."
            )
        check_not_around(self.model, "Leave ParetoFront out, or call fit of that one.")
        self._is_known = False
        if not self._is_between_fits():
            self._has_kept = False
        self.folder.mkdir(parents=True, exist_ok=True)
        index = self.folder / _INDEX
        if index.exists():
            self.records = [FrontRecord(**record) for record in json.loads(index.read_text())]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the network if no other beats it."""
        logs = logs or {}
        value = self._find_in(logs)
        sharings = [part.sharing for part in wrapped_parts(self.model)]
        # What a lost epoch has measured is not of the state that came back after it.
        is_lost = any(sharing.is_lost for sharing in sharings)
        is_snapped = all(to_float(sharing.snap) >= 1.0 for sharing in sharings)
        figures = (value, logs.get("loss", 0.0))
        if is_lost or not is_snapped or not all(map(_is_finite, figures)):
            return
        # In a loop of fits each counts from 0.
        number = sharings[0].epoch + 1
        with warnings.catch_warnings():
            # The end of `fit` says what went wrong, once.
            warnings.simplefilter("ignore")
            small = strip_soft_weight_sharing(self.model)
        path = self.folder / self._free_name(number)
        save_compressed(small, path)
        found = FrontRecord(number, path.stat().st_size, float(logs[self.monitor]), path.name)
        self._take_in(found)
        self._has_kept = self._has_kept or found in self.records

    def _free_name(self, epoch: int) -> str:
        """A name that no record has, for an earlier training may have left its files."""
        taken = {record.file for record in self.records}
        endings = itertools.chain([""], (f"-{count}" for count in itertools.count(2)))
        names = (f"epoch-{epoch:04d}{ending}.sws" for ending in endings)
        return next(name for name in names if name not in taken)

    def _find_in(self, logs: dict[str, Any]) -> float | None:
        """The figure, or `None` where this epoch has none, as with validation_freq=2."""
        if self.monitor in logs:
            self._is_known = True
            return logs[self.monitor]
        had_validation = any(name.startswith("val_") for name in logs)
        is_of_validation = self.monitor.startswith("val_")
        if self._is_known or (is_of_validation and not had_validation):
            return None
        raise ValueError(
            f"ParetoFront monitors {self.monitor!r}, which the logs do not hold; they hold "
            f"{sorted(logs)}. Pass one of these as monitor=."
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Tells where nothing was kept."""
        if self._has_kept or (self._is_between_fits() and not self.model.stop_training):
            return
        if self.records:
            warn(
                f"ParetoFront kept nothing of this training: what {self.folder} held before "
                "beats each of its networks in both size and figure, or at no epoch's end was "
                "the snap complete. Pass another folder to keep them apart."
            )
        else:
            warn(
                f"ParetoFront kept nothing in {self.folder}: at no epoch's end was the snap "
                f"complete and a finite {self.monitor!r} in the logs. It needs AnnealAndMerge "
                "beside it, and for figures of a validation validation_data= of fit."
            )

    def _is_between_fits(self) -> bool:
        """Whether a training is under way that is a loop of fits."""
        # 0 without an `AnnealAndMerge`, and before the first.
        return any(0.0 < part.sharing.ended < 1.0 for part in wrapped_parts(self.model))

    def _take_in(self, found: FrontRecord) -> None:
        others = [record for record in self.records if record.file != found.file]
        if any(self._beats(record, found) for record in others):
            beaten, kept = [found], others
        else:
            beaten = [record for record in others if self._beats(found, record)]
            kept = [*(record for record in others if record not in beaten), found]
        self.records = sorted(kept, key=lambda record: record.size)
        with replacing(self.folder / _INDEX) as path:
            path.write_text(json.dumps([dataclasses.asdict(r) for r in self.records], indent=1))
        for record in beaten:
            (self.folder / record.file).unlink(missing_ok=True)

    def _beats(self, one: FrontRecord, other: FrontRecord) -> bool:
        """Whether one is at least as good in both; of equal ones the first counts."""
        return one.size <= other.size and self._sign * (one.value - other.value) >= 0


def _is_finite(figure: float | None) -> bool:
    return figure is not None and math.isfinite(figure)
