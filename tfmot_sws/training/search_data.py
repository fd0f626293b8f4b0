"""What a search is judged by: its data, and the condition on a metric."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from tfmot_sws.training.monitored import is_better_higher


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a network must be worth: the metric, which way is better, and the least of it."""

    metric: str
    is_higher_better: bool
    baseline: float
    max_drop: float

    def drop(self, value: float) -> float:
        """By how much a value is worse than the given model's."""
        difference = self.baseline - value
        return difference if self.is_higher_better else -difference


def condition_on(
    baseline: dict[str, float], metric: str | None, mode: str, max_drop: float
) -> Condition:
    """The condition on a metric.

    Args:
        baseline: loss and metrics of the given model on the validation data.
        metric: one of them; `None` for the first metric that is no loss, or the loss if there
            is none.
        mode: as of `is_better_higher`.
        max_drop: by how much it may be worse.

    Raises:
        ValueError: the metric is unknown, or the given model's is not finite.
    """
    if metric is None:
        # Of several outputs each has a loss of its own, which says nothing of the others.
        metric = next((name for name in baseline if not _is_loss(name)), "loss")
    if metric not in baseline:
        raise ValueError(
            f"metric={metric!r} is none of the compiled ones: {', '.join(baseline)}."
        )
    value = float(baseline[metric])
    if not math.isfinite(value):
        raise ValueError(
            f"The {metric} of the given model on the validation data is {value}, with which "
            "nothing can be compared."
        )
    return Condition(metric, is_better_higher(metric, mode), value, max_drop)


def _is_loss(name: str) -> bool:
    return name == "loss" or name.endswith("_loss")


class SearchData:
    """Training and validation data, as the user gave them."""

    def __init__(self, train: Any, validation: Any, batch_size: int | None) -> None:
        for name, data in (("train_data", train), ("validation_data", validation)):
            if isinstance(data, Iterator) or data is None:
                raise ValueError(
                    f"{name} is read for each training; a {type(data).__name__} cannot be read "
                    "more than once. Pass arrays, a tf.data.Dataset or a keras.utils.PyDataset."
                )
        self._train, self._validation = train, validation
        self.batch_size = batch_size

    def fit(self, model: Any, **kwargs: Any) -> None:
        """Trains a model."""
        # A tf.data.Dataset comes in its own order, and Keras warns if it is to be shuffled.
        order = {"shuffle": False} if hasattr(self._train, "element_spec") else {}
        model.fit(**self._arguments(self._train), **order, **kwargs)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Loss and metrics on the validation data."""
        arguments = self._arguments(self._validation)
        return model.evaluate(**arguments, verbose=0, return_dict=True)

    def _arguments(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, tuple | list):
            return {"x": data}
        names = ("x", "y", "sample_weight")
        options = {} if self.batch_size is None else {"batch_size": self.batch_size}
        return {**dict(zip(names, data, strict=False)), **options}
