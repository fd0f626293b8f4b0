"""Makes training targets from labels and the dense network's outputs.

The dense network is asked once before the training, which costs one prediction over the data;
`fit`, its loss and its callbacks stay the user's. A teacher inside the wrapper would add a
forward pass to each step and hold the weights twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tfmot_sws.arguments import check_integer, check_numbers
from tfmot_sws.models.examples import check_examples
from tfmot_sws.models.libraries import check_model

# What arrays are nested in; and text, which `predict` does not take either.
_NESTED: Final = (list, tuple, dict, str, bytes)
_MAX_BATCH: Final = (1 << 31) - 1


def soft_targets(
    model: Any,
    x: Any,
    y: Any,
    *,
    temperature: float = 4.0,
    weight: float = 0.5,
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Training targets of a classifier: the labels, mixed with the dense network's answers.

    (1 - weight) onehot(y) + weight softmax(logits / temperature). A network that is
    trained on them need not drive its logits apart for the last training example, so that
    fewer weights do, and it hears from the dense network which classes an example is near
    to. Call it before `fit`, which changes the model's weights, and compile with
    `CategoricalCrossentropy`:

        targets = soft_targets(model, x_train, y_train)
        shared = apply_soft_weight_sharing(model)
        shared.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
        shared.fit(x_train, targets, ...)

    Args:
        model: the pretrained classifier, of Keras 3 or tf_keras, with one output of two or
            more classes in its last axis: logits or probabilities, which are told apart by
            their values.
        x: what `model.predict` takes, N examples.
        y: labels: integers of shape (N, ...), with or without a last axis of 1, or one-hot,
            of the shape of the model's output.
        temperature: > 0; the higher, the softer the network's answers.
        weight: of the network's answers, in [0, 1].
        batch_size: examples that the network sees at a time.

    Returns:
        float32, of the shape (N, ..., C) of the model's output; each row sums to 1.

    Raises:
        ValueError: the model has several outputs or a single class, labels do not fit its
            output, or an argument is out of range.

    References:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    check_model(model)
    _check_arguments(temperature, weight)
    check_integer("batch_size", batch_size, 1, _MAX_BATCH)
    if _are_arrays(x):
        check_examples("x", x, model)
    answers = model.predict(x, batch_size=batch_size, verbose=0)
    if not isinstance(answers, np.ndarray) or answers.shape[-1] < 2:
        received = answers.shape if isinstance(answers, np.ndarray) else type(answers).__name__
        raise ValueError(
            "soft_targets needs a classifier with one output of two or more classes; "
            f"received outputs {received}."
        )
    logits = answers.astype(np.float64)
    if _are_probabilities(logits):
        logits = np.log(np.maximum(logits, np.finfo(np.float32).tiny))
    soft = softmax(logits / temperature, axis=-1)
    return ((1.0 - weight) * _one_hot(y, soft.shape) + weight * soft).astype(np.float32)


def _are_arrays(x: Any) -> bool:
    """Whether x is not one of the things that give batches, which `predict` takes too."""
    return hasattr(x, "shape") or not (
        isinstance(x, Iterable | keras.utils.PyDataset) and not isinstance(x, _NESTED)
    )


def _are_probabilities(outputs: NDArray[np.float64]) -> bool:
    return bool(outputs.min() >= 0 and np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-2))


def _one_hot(y: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    labels = np.asarray(y)
    if labels.shape == shape:
        return labels.astype(np.float64)
    if labels.shape == (*shape[:-1], 1):
        labels = labels[..., 0]
    if labels.shape != shape[:-1]:
        raise ValueError(
            f"Labels of shape {labels.shape} do not fit outputs of shape {shape}: expected are "
            f"integers of shape {shape[:-1]}, or one-hot labels of the outputs' shape."
        )
    classes = shape[-1]
    if not np.all((labels >= 0) & (labels < classes) & (labels == np.floor(labels))):
        raise ValueError(
            f"Labels must be whole numbers from 0 to {classes - 1}, one for each class of the "
            f"model; received values from {labels.min()} to {labels.max()}."
        )
    return np.eye(classes)[labels.astype(int)]


def _check_arguments(temperature: float, weight: float) -> None:
    check_numbers(temperature=temperature, weight=weight)
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite; received {temperature!r}.")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1]; received {weight!r}.")
