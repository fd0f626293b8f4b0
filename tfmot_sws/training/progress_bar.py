"""The progress bar of `fit`: of the figures that `AnnealAndMerge` logs it shows the main ones.

Keras shows all logs, which with eight more no longer fit on a line. A progress bar that drops
some is simpler and safer than logs that hide some: every other callback still gets all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import keras

# In the logs of `AnnealAndMerge`, but not in the progress bar.
_NEVER_SHOWN: Final = {"error_loss", "complexity_loss", "num_components", "target_ratio"}


def main_figures(logs: dict[str, Any]) -> dict[str, Any]:
    """Leaves out figures, so that at most three of `AnnealAndMerge` remain.

    These are the size (the ratio where a size was asked for, else the bits), the zeros, and
    the snap until it is complete. The order stays.

    Example:
        >>> main_figures({"loss": 2.0, "error_loss": 1.0, "zeros": 0.5, "snap": 1.0})
        {'loss': 2.0, 'zeros': 0.5}
    """
    dropped = set(_NEVER_SHOWN)
    if "compression_ratio" in logs:
        dropped.add("bits_per_weight")
    if logs.get("snap", 0.0) >= 1.0:
        dropped.add("snap")
    return {name: value for name, value in logs.items() if name not in dropped}


class ShowsMainFigures:
    """Makes a progress bar, of Keras 3 or tf_keras, leave out figures."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Shows the epoch's main figures."""
        super().on_epoch_end(epoch, main_figures(logs or {}))  # type: ignore[misc]


class ProgressBar(ShowsMainFigures, keras.callbacks.ProgbarLogger):
    """The progress bar of Keras 3 without figures that only logs need."""

    # As Keras treats the one that it adds itself.
    async_safe = True


def with_progress_bar(callbacks: Any, verbose: Any, new: Callable[[], Any]) -> Any:
    """Adds the progress bar where Keras would add its own.

    Args:
        callbacks: of `fit`. A `CallbackList` is complete and stays as it is, and so do
            callbacks with a progress bar of the user's choice.
        verbose: of `fit`.
        new: makes the progress bar.
    """
    if verbose == 0 or not isinstance(callbacks, list) or any(map(_is_bar, callbacks)):
        return callbacks
    # Last, so that it shows what callbacks before it wrote to the logs.
    return [*callbacks, new()]


def _is_bar(callback: Any) -> bool:
    return any(kind.__name__ == "ProgbarLogger" for kind in type(callback).__mro__)
