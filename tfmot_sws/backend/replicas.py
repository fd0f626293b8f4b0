"""Spares a training on one replica the sum of gradients over the replicas.

TensorFlow computes that sum by a function with a gradient of its own, which it never forgets,
nor the graph of the step around it. So each model trained would stay in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

# Keras 3's and tf_keras' name of the method that sums.
_SUMS = ("_all_reduce_sum_gradients", "aggregate_gradients")


@contextlib.contextmanager
def one_replica_spared(optimizer: Any) -> Iterator[None]:
    """Has an optimizer take gradients as they are, where there is but one replica.

    Args:
        optimizer: of Keras 3 or tf_keras, with or without a loss scale; `None` is let be.
    """
    optimizers = [optimizer, getattr(optimizer, "inner_optimizer", None)]
    sums = [(o, name) for o in optimizers for name in _SUMS if hasattr(type(o), name)]
    if not sums or not _on_one_replica():
        yield
        return
    for summing, name in sums:
        # Past `__setattr__`, which tracks.
        vars(summing)[name] = list
    try:
        yield
    finally:
        for summing, name in sums:
            del vars(summing)[name]


def _on_one_replica() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.distribute.get_strategy().num_replicas_in_sync == 1)
