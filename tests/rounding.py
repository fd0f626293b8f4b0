"""Clustered weights without training: few values, many zeros."""

from __future__ import annotations

import keras
import numpy as np

NUM_VALUES = 7


def cluster(model: keras.Model, zeros: float = 0.6) -> keras.Model:
    """Rounds every kernel in place to 7 uneven values, at least a share of them zero."""
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        weights = np.asarray(variable)
        if weights.ndim < 2 or not np.any(weights):
            continue
        step = np.abs(weights).max() / 3
        # Uneven, so that the values do not happen to lie on an int8 grid.
        values = step * np.float32([-3, -1.71, -1, 0, 0.83, 2.07, 3])
        rounded = values[np.abs(weights[..., None] - values).argmin(-1)]
        rounded[generator.random(weights.shape) < zeros] = 0
        variable.assign(rounded)
    return model
