"""The complexity weight when none is given: from the data's size and the learning rate."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np

# Where the default was found: 55,000 examples, Adam with a peak rate of 8e-3, soft targets.
_WEIGHT, _TRAIN_SIZE, _LEARNING_RATE = 0.09, 50_000, 8e-3
# Of a training without a known rate: Adam's own default.
_USUAL_LEARNING_RATE = 1e-3


def default_complexity_weight(
    train_size: int, learning_rate: float = _USUAL_LEARNING_RATE
) -> float:
    """The complexity weight tau when none is given.

    0.09 sqrt(min(1, N / 50,000)) min(1, rate / 0.008). A high rate lets weights cross often
    between clusters, so the same accuracy needs fewer of them, and tau can be larger.

    Args:
        train_size: N >= 1, the number of training examples.
        learning_rate: the optimizer's highest rate in the training, > 0.

    Example:
        >>> [default_complexity_weight(n, 8e-3) for n in (60_000, 12_500)]
        [0.09, 0.045]
        >>> default_complexity_weight(60_000, 2e-3)
        0.0225
    """
    data = min(1.0, train_size / _TRAIN_SIZE) ** 0.5
    return _WEIGHT * data * min(1.0, learning_rate / _LEARNING_RATE)


def peak_learning_rate(optimizer: Any, num_steps: int) -> float:
    """The highest learning rate that an optimizer will have in a training.

    Args:
        optimizer: of Keras 3 or tf_keras; `None` where the model has none.
        num_steps: of the whole training, >= 1.

    Returns:
        The highest rate of its schedule, or its rate where it has none; 1e-3 without
        an optimizer.
    """
    if optimizer is None:
        return _USUAL_LEARNING_RATE
    config = optimizer.get_config()
    inner = config.get("inner_optimizer")
    if inner is not None:
        config = inner["config"]
    rate = config.get("learning_rate", _USUAL_LEARNING_RATE)
    if not isinstance(rate, dict):
        return float(rate)
    try:
        schedule = _library(optimizer).optimizers.schedules.deserialize(rate)
    except (TypeError, ValueError):
        schedule = None
    if not callable(schedule):
        # A class of the user's own that is not registered: what it gives now.
        return float(np.asarray(optimizer.learning_rate)) or _USUAL_LEARNING_RATE
    steps = np.unique(np.linspace(0, num_steps, 101).astype(int))
    return max(float(np.asarray(schedule(step))) for step in steps)


def _library(optimizer: Any) -> Any:
    """Keras 3, or the tf_keras that an optimizer has come from."""
    bases = {base.__module__.partition(".")[0] for base in type(optimizer).__mro__}
    return sys.modules["tf_keras"] if "tf_keras" in bases else keras
