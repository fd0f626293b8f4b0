"""Counts the training examples of an epoch of `fit`: the N of the complexity loss."""

from __future__ import annotations

import math
from typing import Any

import keras

_ADVICE = (
    "Pass train_size=, the number of training examples, to apply_soft_weight_sharing: the "
    "complexity loss is divided by it."
)


def count_examples(
    x: Any,
    *,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    validation_split: float = 0.0,
) -> int:
    """Number of training examples in what is handed to `fit`.

    Args:
        x: arrays or tensors (also nested in lists or dicts), a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a torch `DataLoader`, or a generator.
        batch_size: as given to `fit`; with `steps_per_epoch` the size of a generator.
        steps_per_epoch: as given to `fit`; used where the data has no length.
        validation_split: as given to `fit`, taken off arrays.

    Returns:
        N >= 1.

    Raises:
        ValueError: when the data is empty or its size cannot be known.

    Example:
        >>> count_examples(keras.ops.zeros((100, 3)), validation_split=0.2)
        80
    """
    count = _count(x, batch_size, steps_per_epoch, validation_split)
    if count is None:
        raise ValueError(
            f"The number of training examples in {type(x).__name__} cannot be worked "
            f"out. {_ADVICE}"
        )
    if count < 1:
        raise ValueError(
            f"fit received no training examples ({type(x).__name__} of size {count}). "
            "Pass data with at least one example."
        )
    return count


def count_steps(x: Any, steps_per_epoch: int | None = None) -> int | None:
    """Number of steps in one epoch, as far as `fit`'s data tell before Keras has them.

    Keras shards a `tf.data.Dataset` among processes, after which its length is unknown.

    Args:
        x: as given to `fit`.
        steps_per_epoch: as given to `fit`.

    Returns:
        The number, or `None` where only Keras can tell.
    """
    if steps_per_epoch or not hasattr(x, "cardinality"):
        return steps_per_epoch
    cardinality = int(x.cardinality())
    return cardinality if cardinality > 0 else None


def _count(
    x: Any, batch_size: int | None, steps_per_epoch: int | None, validation_split: float
) -> int | None:
    if isinstance(x, keras.utils.PyDataset):
        if x.num_batches == 0:
            return 0
        return _times(x.num_batches or steps_per_epoch, _length(x[0]))
    if hasattr(x, "cardinality"):
        return _count_dataset(x, steps_per_epoch)
    if hasattr(x, "dataset") and hasattr(x, "batch_size"):
        return len(x.dataset)
    length = _length(x)
    if length is None and isinstance(x, (list, tuple)) and x:
        length = len(x)
    if length is not None:
        # As Keras splits.
        return math.floor(length * (1.0 - validation_split))
    return _times(steps_per_epoch, batch_size)


def _count_dataset(dataset: Any, steps_per_epoch: int | None) -> int | None:
    """A tf.data.Dataset: batches times the size of a batch, the last counted as full."""
    cardinality = int(dataset.cardinality())
    if cardinality == 0:
        return 0
    batches = cardinality if cardinality > 0 else steps_per_epoch
    return _times(batches, _length(next(iter(dataset)))) if batches else None


def _length(nested: Any) -> int | None:
    """Size of the first axis of the first array in a nested structure, if it has one."""
    leaf = next((leaf for leaf in keras.tree.flatten(nested) if leaf is not None), None)
    shape: Any = getattr(leaf, "shape", ())
    return int(shape[0]) if len(shape) else None


def _times(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first * second
