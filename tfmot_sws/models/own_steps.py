"""What of the training a user's model does in its own way, by methods of its class."""

from __future__ import annotations

from typing import Any, Final

from tfmot_sws.models.libraries import is_tf_keras, library_of

# The wrapper's own methods run in place of these.
_REPLACED: Final = (
    "train_step",
    "test_step",
    "predict_step",
    "fit",
    "evaluate",
    "predict",
    "train_on_batch",
)
# tf_keras has no stateless scope in which these could run on snapped weights.
_ONLY_KERAS_3: Final = ("compute_loss", "compute_metrics")


def has_own(model: Any, method: str) -> bool:
    """Whether the class of a model defines a method of `keras.Model` in its own way."""
    own = getattr(type(model), method, None)
    return own is not getattr(library_of(model).model, method, None)


def check_steps(model: Any) -> None:
    """Raises `ValueError` if a model has steps of its own, which would be ignored."""
    refused = (*_REPLACED, *_ONLY_KERAS_3) if is_tf_keras(model) else _REPLACED
    methods = [method for method in refused if has_own(model, method)]
    if not methods:
        return
    way_out = (
        "call add_loss in its call"
        if is_tf_keras(model)
        else "move the loss into compute_loss and the metrics into compute_metrics, which are "
        "used, or call add_loss in its call"
    )
    raise ValueError(
        f"Model '{model.name}' ({type(model).__name__}) has its own {', '.join(methods)}, "
        "which would be ignored under soft weight-sharing. In place of them "
        f"{way_out}; or wrap keras.Model(inputs, model(inputs)) or single parts of it, and "
        "train them in a loop of your own."
    )
