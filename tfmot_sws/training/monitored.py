"""Which way a monitored figure is better."""

from __future__ import annotations

from typing import Final

# Parts of the names that Keras gives to losses and metrics.
_HIGHER: Final = (
    *("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "dice", "r2"),
    *("specificity", "sensitivity"),
)
_LOWER: Final = (
    *("loss", "error", "mse", "mae", "mape", "msle", "rmse", "crossentropy", "divergence"),
    *("hinge", "logcosh", "poisson", "perplexity"),
)


def is_better_higher(name: str, mode: str) -> bool:
    """Whether a higher figure is better.

    Args:
        name: of the metric or loss, as in the logs.
        mode: "max", "min", or "auto" to go by the name.

    Raises:
        ValueError: the mode is another one, or the name does not tell.

    Example:
        >>> is_better_higher("val_accuracy", "auto"), is_better_higher("mae", "auto")
        (True, False)
    """
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"mode must be 'auto', 'min' or 'max'; received {mode!r}.")
    if mode != "auto":
        return mode == "max"
    lower = name.lower()
    # A word such as "accuracy_loss" is a loss.
    if any(part in lower for part in _LOWER):
        return False
    if any(part in lower for part in _HIGHER):
        return True
    raise ValueError(
        f"Whether a higher {name!r} is better cannot be told by its name. Pass mode='max' or "
        "mode='min'."
    )
