"""The complexity weight when none is given: from the data's size and the learning rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfmot_sws.models.libraries import library_of

# Where the default was found: 55,000 examples, Adam with a peak rate of 8e-3, soft targets.
_WEIGHT, _TRAIN_SIZE, _LEARNING_RATE = 0.09, 50_000, 8e-3
# Of a training without a known rate: Adam's own default.
_USUAL_LEARNING_RATE = 1e-3


def resolve(
    given: float | None, train_size: int | None, learning_rate: float = _USUAL_LEARNING_RATE
) -> float | None:
    """The complexity weight tau: the one that is given, or the default.

    The default is 0.09 sqrt(min(1, N / 50,000)) min(1, rate / 0.008). tau / N is what the
    Bayesian reading asks for, with tau = 1; in practice tau must be smaller, and one that
    suits 60,000 examples is far too strong for 1,000, since N is the denominator: hence the
    root of N. A high rate lets weights cross often between clusters, so the same accuracy
    needs fewer of them, and tau can be larger. See docs/experiments.md.

    Args:
        given: tau > 0, or `None` for the default.
        train_size: N >= 1, the number of training examples; `None` while unknown.
        learning_rate: the optimizer's highest rate in the training, > 0.

    Returns:
        tau, or `None` if neither it nor N is known.

    Example:
        >>> [resolve(None, n, 8e-3) for n in (60_000, 12_500)]
        [0.09, 0.045]
        >>> resolve(None, 60_000, 2e-3), resolve(0.01, 60_000), resolve(None, None)
        (0.0225, 0.01, None)
    """
    if given is not None or train_size is None:
        return given
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
        schedule = library_of(optimizer).schedules.deserialize(rate)
    except (TypeError, ValueError):
        schedule = None
    if not callable(schedule):
        # A class of the user's own that is not registered: what it gives now.
        return float(np.asarray(optimizer.learning_rate)) or _USUAL_LEARNING_RATE
    steps = np.unique(np.linspace(0, num_steps, 101).astype(int))
    return max(float(np.asarray(schedule(step))) for step in steps)
