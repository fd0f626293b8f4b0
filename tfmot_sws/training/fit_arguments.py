"""Completes the arguments of `fit`: counts the examples, and adds missing callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfmot_sws.advice import warn
from tfmot_sws.models.wrapped import check_unchanged
from tfmot_sws.training.anneal import AnnealAndMerge
from tfmot_sws.training.batches import draw_batches
from tfmot_sws.training.progress_bar import ProgressBar, with_progress_bar
from tfmot_sws.training.train_size import count_examples, count_steps


def fit_arguments(
    fit: Callable[..., Any],
    model: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    count: Callable[..., int] = count_examples,
    progress_bar: Callable[[], Any] = ProgressBar,
) -> dict[str, Any]:
    """The arguments of a wrapper's `fit` by name, with an `AnnealAndMerge` among them.

    A progress bar of few figures is added where Keras would add one of all.

    The model's `train_size` is set where it was unknown.

    Args:
        fit: the function whose arguments these are.
        model: the wrapper.
        args: positional arguments, without the model.
        kwargs: named arguments.
        count: counts the training examples, as `count_examples` does.
        progress_bar: makes a progress bar of the model's library.

    Raises:
        ValueError: when the optimizer averages weights, or layers were frozen or unfrozen
            after wrapping.
    """
    check_unchanged(model)
    _check_optimizer(getattr(model, "optimizer", None))
    arguments = inspect.signature(fit).bind(model, *args, **kwargs).arguments
    arguments.pop("self")
    if model.sharing.train_size is None:
        train_size = count(
            arguments.get("x"),
            batch_size=arguments.get("batch_size"),
            steps_per_epoch=arguments.get("steps_per_epoch"),
            validation_split=arguments.get("validation_split") or 0.0,
        )
        model.sharing.set_train_size(train_size)
    steps = count_steps(arguments.get("x"), arguments.get("steps_per_epoch"))
    model.sharing.steps_per_epoch = steps
    # Past `__setattr__`, which would track the arrays.
    vars(model)["batches"] = draw_batches(arguments)
    callbacks, added = _put_first(arguments.get("callbacks"), AnnealAndMerge)
    if added:
        warn(
            "fit() was called without an AnnealAndMerge callback, so the default one "
            "was added. Pass callbacks=[tfmot_sws.AnnealAndMerge()] to silence this.",
        )
    verbose = arguments.get("verbose", "auto")
    arguments["callbacks"] = with_progress_bar(callbacks, verbose, progress_bar)
    listed = getattr(callbacks, "callbacks", callbacks)
    for callback in listed:
        if isinstance(callback, AnnealAndMerge):
            callback.accompany(listed)
    return arguments


def _put_first(callbacks: Any, kind: type[keras.callbacks.Callback]) -> tuple[Any, bool]:
    """Callbacks for `fit` with those of a kind in front, and whether one was added.

    In front, so that what they write to the logs reaches every other callback.

    Raises:
        TypeError: one of them is a class.
    """
    if hasattr(callbacks, "callbacks"):  # A CallbackList, of Keras 3 or of tf_keras.
        present = any(isinstance(c, kind) for c in callbacks.callbacks)
        if not present:
            callbacks.append(kind())
        return callbacks, not present
    listed = callbacks or []
    if not isinstance(listed, list | tuple):
        listed = [listed]
    for callback in listed:
        if isinstance(callback, type):
            raise TypeError(
                f"A callback must be an object; received the class {callback.__name__}: write "
                f"{callback.__name__}(...) in its place."
            )
    first = [c for c in listed if isinstance(c, kind)]
    rest = [c for c in listed if not isinstance(c, kind)]
    return (first or [kind()]) + rest, not first


def _check_optimizer(optimizer: Any) -> None:
    # Mixed precision puts a scaling optimizer around the user's.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if getattr(optimizer, "use_ema", False):
        raise ValueError(
            f"The optimizer {type(optimizer).__name__} has use_ema=True: at the end of fit it "
            "would put averages in the place of weights and mixture, which are no clusters "
            "that the network has run on. Compile with use_ema=False; a learning rate that "
            "falls to zero averages as well."
        )
