"""`find_smallest`: several trainings, to the smallest file at an accuracy that is given."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from rich.console import Console

from tfmot_sws.advice import SoftWeightSharingWarning, warn
from tfmot_sws.coding.model_file import load_compressed, save_compressed
from tfmot_sws.models.libraries import library_of, view_of
from tfmot_sws.models.rebuild import clone_with, finalize, float32_clone
from tfmot_sws.models.wrapped import is_wrapped
from tfmot_sws.training.anneal import AnnealAndMerge
from tfmot_sws.training.apply import apply_soft_weight_sharing
from tfmot_sws.training.file_meter import FileMeter
from tfmot_sws.training.search_data import Condition, SearchData, condition_on
from tfmot_sws.training.search_plan import next_ratio
from tfmot_sws.training.search_result import SearchResult, Trial
from tfmot_sws.training.search_state import SearchState
from tfmot_sws.training.strip import freeze_short_norms, strip_soft_weight_sharing
from tfmot_sws.whole_file import replacing

_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")
# How near to the size of what is not shared a file may be asked for.
_ROOM = 1.1


def find_smallest(  # noqa: PLR0913 - of which a user sets two or three
    model: keras.Model,
    train_data: Any,
    validation_data: Any,
    *,
    epochs: int,
    max_drop: float = 0.01,
    metric: str | None = None,
    mode: str = "auto",
    batch_size: int | None = None,
    max_trainings: int = 8,
    folder: str | os.PathLike[str] | None = None,
    callbacks: Callable[[], Sequence[Any]] | None = None,
    verbose: int = 1,
    **settings: Any,
) -> SearchResult:
    """Trains with one stated size after the other; gives the smallest that is good enough.

    The first training asks for a ratio of 16. Each next one asks for more while the condition
    is met and for less when it is not, and begins with the network of the smallest training
    that met it so far. The search ends when two sizes 10 % apart lie on either side of the
    condition, or after `max_trainings`.

    Args:
        model: a built and pretrained model of Keras 3 or tf_keras, compiled: its optimizer,
            loss and metrics are those of every training. It stays as it is.
        train_data: (x, y) or (x, y, sample_weight) of arrays, or a data set as `fit` takes it,
            which can be read more than once.
        validation_data: likewise; the condition is judged on it. Keep test data apart.
        epochs: of each training, >= 1.
        max_drop: by how much the metric may be worse than that of `model`, in its own units:
            0.01 is a point of accuracy. May be below 0.
        metric: name of a compiled metric, or "loss". `None`: the first metric, or the loss if
            there is none; the loss of a single output does not count.
        mode: "max" if a higher metric is better, "min" if a lower one is, "auto" to go by its
            name.
        batch_size: as for `fit`, where the data is arrays.
        max_trainings: the most trainings, >= 1.
        folder: keeps each training's `.sws` file and what a search that was killed needs to
            go on where it was; call the function again with the same arguments. `None`: a
            temporary folder.
        callbacks: makes callbacks for each training, besides `AnnealAndMerge`.
        verbose: 0 for silence, 1 for a line before and after each training, 2 for Keras' lines
            of each epoch too.
        settings: of `apply_soft_weight_sharing`, but for targets and `complexity_weight`.

    Returns:
        The model and the records of all trainings. Where no training meets the condition, a
        warning says so, and the nearest is returned.

    Raises:
        TypeError: `model` is no built Keras model, `callbacks` is no function, or an unknown
            setting is given.
        ValueError: it is not compiled or is wrapped already, an argument is out of range, the
            metric is unknown, or the folder holds another search.
    """
    _check(model, epochs, max_drop, max_trainings, settings)
    if callbacks is not None and not callable(callbacks):
        raise TypeError(
            "callbacks must be a function that makes the callbacks of each training, such as "
            f"lambda: [...]; received {type(callbacks).__name__}."
        )
    data = SearchData(train_data, validation_data, batch_size)
    condition = condition_on(data.evaluate(model), metric, mode, max_drop)
    with _kept_in(folder) as place:
        search = _Search(
            model=model,
            data=data,
            epochs=epochs,
            condition=condition,
            settings=settings,
            callbacks=callbacks or (lambda: ()),
            folder=place,
            verbose=verbose,
        )
        return search.run(max_trainings)


def _check(
    model: Any, epochs: Any, max_drop: Any, max_trainings: Any, settings: dict[str, Any]
) -> None:
    if not isinstance(model, library_of(model).model) or not model.built:
        raise TypeError(
            "find_smallest expects a built Keras model, pretrained and compiled; received "
            f"{type(model).__name__}."
        )
    if is_wrapped(model):
        raise ValueError(
            f"Model '{model.name}' is under soft weight-sharing already; find_smallest wraps "
            "the pretrained model itself. Pass that one."
        )
    if not getattr(model, "optimizer", None) or not model.loss:
        raise ValueError(
            f"Model '{model.name}' is not compiled with an optimizer and a loss, which all "
            "trainings take over. Call compile(...) as you would to fine-tune it."
        )
    for name, value in (("epochs", epochs), ("max_trainings", max_trainings)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1; received {value!r}.")
    if not isinstance(max_drop, int | float) or not math.isfinite(max_drop):
        raise ValueError(f"max_drop must be a finite number; received {max_drop!r}.")
    chosen = [name for name in settings if name.startswith("target_")]
    chosen += [name for name in settings if name == "complexity_weight"]
    if chosen:
        raise ValueError(
            f"find_smallest chooses the sizes itself; received {', '.join(chosen)}. For one "
            "size call apply_soft_weight_sharing and fit."
        )
    known = set(inspect.signature(apply_soft_weight_sharing).parameters) - {"model"}
    if unknown := sorted(set(settings) - known):
        raise TypeError(
            f"find_smallest has no argument {', '.join(unknown)}, and neither has "
            "apply_soft_weight_sharing."
        )


@contextlib.contextmanager
def _kept_in(folder: str | os.PathLike[str] | None) -> Iterator[pathlib.Path]:
    """The folder, made if it is missing, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield pathlib.Path(temporary)
        return
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    yield path


@dataclasses.dataclass(frozen=True)
class _Search:
    """One search; what it has done lies in its folder."""

    model: Any
    data: SearchData
    epochs: int
    condition: Condition
    settings: dict[str, Any]
    callbacks: Callable[[], Sequence[Any]]
    folder: pathlib.Path
    verbose: int

    def run(self, max_trainings: int) -> SearchResult:
        """Trains until the search is at its end."""
        # First, because it refuses models whose training cannot be set up again.
        largest = self._largest_ratio()
        state = SearchState(self.folder, self._identity())
        trials = state.read()
        self._say(f"The given model's {self.condition.metric}: {self.condition.baseline:.4f}.")
        while len(trials) < max_trainings:
            ratio = next_ratio(trials, self.condition.max_drop, largest)
            if ratio is None:
                break
            trials.append(self._train(ratio, trials))
            state.write(trials)
        return self._result(trials)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a search to go on."""
        values = b"".join(_values(v).tobytes() for v in view_of(self.model).variables)
        named = {k: getattr(v, "__qualname__", repr(v)) for k, v in self.settings.items()}
        compiled = json.dumps(self.model.get_compile_config(), sort_keys=True, default=repr)
        return {
            "weights": zlib.crc32(values),
            "epochs": self.epochs,
            "batch_size": self.data.batch_size,
            "metric": self.condition.metric,
            "mode": "max" if self.condition.is_higher_better else "min",
            # Three digits, for another machine may round differently.
            "value of the metric": f"{self.condition.baseline:.3g}",
            "max_drop": self.condition.max_drop,
            # Of objects the representation holds an address.
            "settings": {k: _ADDRESS.sub("", text) for k, text in named.items()},
            "optimizer, loss or metrics": zlib.crc32(_ADDRESS.sub("", compiled).encode()),
        }

    def _largest_ratio(self) -> float:
        shared = apply_soft_weight_sharing(self._copy(None), **self.settings)
        # Before any training, if it cannot be done.
        self._compile(shared)
        variables = [v for group in shared.groups for v in group.variables]
        meter = FileMeter(shared.inner, variables, shared.sharing.unshared)
        return meter.dense_bytes / (_ROOM * meter.measure_smallest().total)

    def _train(self, ratio: float, trials: Sequence[Trial]) -> Trial:
        number = len(trials) + 1
        good = max((t for t in trials if t.met), key=lambda t: t.ratio, default=None)
        self._say(
            f"Training {number}: {ratio:.1f}x asked, from "
            + (f"the network of training {good.number}." if good else "the given model.")
        )
        start = time.perf_counter()
        with warnings.catch_warnings():
            # The search's own sizes are meant to become too small.
            warnings.filterwarnings("ignore", "target_ratio=", SoftWeightSharingWarning)
            shared = apply_soft_weight_sharing(
                self._copy(good), target_ratio=ratio, **self.settings
            )
        self._compile(shared)
        backup = self.folder / f"backup-{number:02d}"
        with warnings.catch_warnings():
            # What a training lost is told by its metric.
            warnings.simplefilter("ignore", SoftWeightSharingWarning)
            self.data.fit(
                shared,
                epochs=self.epochs,
                callbacks=[AnnealAndMerge(), *self._backups(backup), *self.callbacks()],
                verbose=2 if self.verbose > 1 else 0,
            )
        shutil.rmtree(backup, ignore_errors=True)
        return self._judge(shared, number, ratio, good, time.perf_counter() - start)

    def _judge(
        self, shared: Any, number: int, ratio: float, good: Trial | None, seconds: float
    ) -> Trial:
        # A training that was stopped has not snapped all the way, and the file has.
        shared.snap.assign(1.0)
        value = float(self.data.evaluate(shared)[self.condition.metric])
        drop = self.condition.drop(value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SoftWeightSharingWarning)
            small = strip_soft_weight_sharing(shared)
        path = self.folder / f"training-{number:02d}.sws"
        save_compressed(small, path)
        values = [_values(v) for v in view_of(shared.inner).variables]
        with replacing(path.with_suffix(".npz")) as temporary:
            np.savez(temporary, *values)
        dense_bytes = sum(array.nbytes for array in values)
        size = path.stat().st_size
        trial = Trial(
            number=number,
            start=good.number if good else 0,
            asked=ratio,
            ratio=dense_bytes / size,
            size=size,
            value=value,
            drop=drop,
            # A NaN meets nothing.
            met=drop <= self.condition.max_drop,
            seconds=seconds,
            file=path.name,
        )
        verdict = "good enough" if trial.met else "not good enough"
        self._say(
            f"  {trial.ratio:.1f}x, {size:,} bytes, {self.condition.metric} {value:.4f} "
            f"({-drop if self.condition.is_higher_better else drop:+.4f}): {verdict}; "
            f"{seconds:.0f} s."
        )
        return trial

    def _copy(self, trial: Trial | None) -> Any:
        """A copy of the given model, with its weights or those behind a training's network."""
        copy = clone_with(self.model, lambda config: config)
        if trial is None:
            values = [_values(v) for v in view_of(self.model).variables]
        else:
            with np.load((self.folder / trial.file).with_suffix(".npz")) as stored:
                values = [stored[f"arr_{i}"] for i in range(len(stored.files))]
        for variable, value in zip(view_of(copy).variables, values, strict=True):
            variable.assign(value)
        finalize(copy)
        return copy

    def _compile(self, shared: Any) -> None:
        """Compiles a wrapper as the given model is, with a new optimizer."""
        try:
            shared.compile_from_config(self.model.get_compile_config())
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"Optimizer, loss or metrics of '{self.model.name}' cannot be made again from "
                f"their configuration, as each training needs them: {str(error)[:300]} "
                "Register what is your own with "
                "keras.saving.register_keras_serializable, in place of a lambda too."
            ) from error

    def _backups(self, folder: pathlib.Path) -> list[Any]:
        """Lets a training that is killed go on; in tf_keras it begins again."""
        is_keras3 = isinstance(self.model, keras.Model)
        return [keras.callbacks.BackupAndRestore(folder)] if is_keras3 else []

    def _result(self, trials: Sequence[Trial]) -> SearchResult:
        good = [trial for trial in trials if trial.met]
        chosen = (
            min(good, key=lambda trial: trial.size)
            if good
            else min(trials, key=lambda trial: (math.isnan(trial.drop), trial.drop))
        )
        if not good:
            warn(
                f"None of {len(trials)} trainings kept {self.condition.metric} within "
                f"{self.condition.max_drop:g} of the given model's; the nearest is "
                f"{chosen.drop:.4g} worse, at {chosen.size:,} bytes, and is returned. Try more "
                "epochs, a rate at which plain fit keeps the accuracy, or a larger max_drop.",
            )
        result = SearchResult(
            model=self._load(chosen),
            met=bool(good),
            chosen=chosen,
            trials=tuple(trials),
            metric=self.condition.metric,
            baseline=self.condition.baseline,
            max_drop=self.condition.max_drop,
        )
        self._say(str(result))
        return result

    def _load(self, trial: Trial) -> Any:
        """A training's network; classes and functions of the user's are known to the model."""
        shared = apply_soft_weight_sharing(self._copy(None), **self.settings)
        plain = float32_clone(self.model)
        load_compressed(self.folder / trial.file, model=plain)
        freeze_short_norms(plain, shared.sharing.unshared)
        return plain

    def _say(self, text: str) -> None:
        if self.verbose:
            Console(soft_wrap=True).print(text, markup=False, highlight=False)


def _values(variable: Any) -> NDArray[Any]:
    return np.asarray(ops.convert_to_numpy(variable))
