"""Callbacks of Keras 3 in the `fit` of tf_keras."""

from __future__ import annotations

from typing import Any

import keras
import tf_keras

from tfmot_sws.training.callback_hooks import RunsInTfKeras
from tfmot_sws.training.progress_bar import ShowsMainFigures

_HOOKS = [
    *(f"on_epoch_{when}" for when in ("begin", "end")),
    *(
        f"on_{what}_{when}"
        for what in ("train", "test", "predict")
        for when in ("begin", "end")
    ),
    *(
        f"on_{what}_batch_{when}"
        for what in ("train", "test", "predict")
        for when in ("begin", "end")
    ),
]


class Forwarding(tf_keras.callbacks.Callback):
    """Hands everything on to a callback of Keras 3.

    Args:
        callback: of Keras 3; its `model` will be a tf_keras model.
    """

    def __init__(self, callback: keras.callbacks.Callback) -> None:
        super().__init__()
        self.callback = callback
        for hook in _HOOKS:
            setattr(self, hook, getattr(callback, hook))

    def set_params(self, params: dict[str, Any]) -> None:
        """Hands the parameters on."""
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: tf_keras.Model) -> None:
        """Hands the model on."""
        super().set_model(model)
        self.callback.set_model(model)


class TfKerasProgressBar(ShowsMainFigures, tf_keras.callbacks.ProgbarLogger):
    """The progress bar of tf_keras without figures that only logs need."""

    def __init__(self) -> None:
        super().__init__(count_mode="steps")


def for_tf_keras(callbacks: Any) -> Any:
    """Callbacks as the `fit` of tf_keras takes them; a `CallbackList` is left as it is."""
    if not isinstance(callbacks, list):
        return callbacks
    return [Forwarding(c) if _needs_forwarding(c) else c for c in callbacks]


def _needs_forwarding(callback: Any) -> bool:
    """Those of this package run in either `fit` as they are."""
    is_keras3 = isinstance(callback, keras.callbacks.Callback)
    return is_keras3 and not isinstance(callback, RunsInTfKeras)
