"""Has callbacks that look for the best epoch look among those of the finished rule only.

Before the rule of the assignment is fixed each epoch's network is another one, less and less
of it dense. Early ones are more accurate, and no answer to what the training was for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Callbacks of Keras 3 and tf_keras, and what they keep from epoch to epoch.
_KINDS = {"EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint"}
_KEPT = ("best", "best_epoch", "best_weights", "wait", "stopped_epoch", "cooldown_counter")


class EpochMemories:
    """What `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint` keep of past epochs.

    Args:
        callbacks: of one `fit`; others than these are left alone.
    """

    def __init__(self, callbacks: Iterable[Any] = ()) -> None:
        self._callbacks = [callback for callback in callbacks if _looks_for_best(callback)]
        self._before: list[dict[str, Any]] = []

    def take(self) -> None:
        """Notes what they know now, at the beginning of the first epoch."""
        self._before = [
            {name: value for name, value in vars(callback).items() if name in _KEPT}
            for callback in self._callbacks
        ]

    def forget(self) -> None:
        """Has them know again what `take` noted, and no more."""
        for callback, before in zip(self._callbacks, self._before, strict=True):
            vars(callback).update(before)


def _looks_for_best(callback: Any) -> bool:
    return any(kind.__name__ in _KINDS for kind in type(callback).__mro__)
