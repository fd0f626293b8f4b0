"""Draws a few batches from the data of `fit`, before it trains on them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from tfmot_sws.training.train_size import count_examples

_USUAL_BATCH = 32
# Of images this may be a few only.
_MAX_BYTES = 1 << 26


def draw_batches(arguments: dict[str, Any], most: int = 8) -> list[tuple[Any, Any, Any]]:
    """A few batches of the training data; `fit` then sees all the data nevertheless.

    Args:
        arguments: of `fit`, by name. A generator among them is replaced by one that begins
            with what was drawn.
        most: the number of batches, if they are not too large.

    Returns:
        For each its inputs, targets and sample weights, as NumPy arrays; none where the data
        is of an unknown kind, or sparse or ragged.
    """
    x: Any = arguments.get("x")
    if isinstance(x, Iterator):
        drawn = list(itertools.islice(x, most))
        arguments["x"] = _chained(drawn, x)
    elif hasattr(x, "shape") or isinstance(x, list | tuple | dict):
        drawn = _of_arrays(arguments, most)
    elif hasattr(x, "cardinality") and hasattr(x, "take"):
        drawn = list(x.take(most))
    elif isinstance(x, keras.utils.PyDataset):
        drawn = _spread(x, x.num_batches, most)
    elif hasattr(x, "__getitem__") and hasattr(x, "on_epoch_end"):
        drawn = _spread(x, len(x), most)
    else:
        drawn = list(itertools.islice(x, most)) if isinstance(x, Iterable) else []
    batches = [_arrays(batch) for batch in drawn]
    return _within_memory(batches) if all(map(_is_known, batches)) else []


def _chained(drawn: list[Any], rest: Iterator[Any]) -> Any:
    yield from drawn
    yield from rest


def _spread(sequence: Any, length: int | None, most: int) -> list[Any]:
    """Entries of a sequence of batches, evenly from its whole length."""
    count = most if length is None else min(most, length)
    return [sequence[i * (length or most) // count] for i in range(count)]


def _of_arrays(arguments: dict[str, Any], most: int) -> list[Any]:
    """Batches of every so-many-th row, because rows may be sorted."""
    data = tuple(arguments.get(name) for name in ("x", "y", "sample_weight"))
    if not all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(data) if leaf is not None):
        return []
    split = arguments.get("validation_split") or 0.0
    size = count_examples(data[0], validation_split=split)
    batch = min(arguments.get("batch_size") or _USUAL_BATCH, size)
    stride = size // batch
    count = min(most, stride)

    def rows(start: int) -> Any:
        return keras.tree.map_structure(
            lambda a: None if a is None else a[start : start + stride * batch : stride], data
        )

    return [rows(i * stride // count) for i in range(count)]


def _arrays(batch: Any) -> tuple[Any, Any, Any]:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
        tuple(batch) if isinstance(batch, list) else batch
    )
    return keras.tree.map_structure(_array, (x, y, sample_weight))


def _array(leaf: Any) -> Any:
    if leaf is None:
        return None
    # Of torch, perhaps on another device.
    return np.asarray(leaf.detach().cpu() if hasattr(leaf, "detach") else leaf)


def _is_known(batch: tuple[Any, Any, Any]) -> bool:
    """Whether all are arrays, which NumPy does not make of sparse or ragged tensors."""
    return all(leaf.ndim > 0 for leaf in keras.tree.flatten(batch) if leaf is not None)


def _within_memory(batches: Iterable[tuple[Any, Any, Any]]) -> list[tuple[Any, Any, Any]]:
    """As many batches as fit into memory set aside for them, at least one."""
    kept: list[tuple[Any, Any, Any]] = []
    total = 0
    for batch in batches:
        total += sum(a.nbytes for a in keras.tree.flatten(batch) if a is not None)
        if kept and total > _MAX_BYTES:
            break
        kept.append(batch)
    return kept
