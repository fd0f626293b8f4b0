"""Looks at a model that was just wrapped, and says what its user may not have meant."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.advice import warn
from tfmot_sws.backend.scalars import to_float
from tfmot_sws.models.codebook import distinct_values
from tfmot_sws.models.wrapped import NOT_TRAINABLE

# A tensor with fewer non-zero weights proves nothing, and fewer frozen weights hardly matter.
_ENOUGH: Final = 256
# In a clustered tensor each non-zero value occurs so often on average. In float32 weights from
# an initializer or a training hardly any occurs twice.
_REPEATS: Final = 8
_MOST: Final = 0.5
_LONG_FLOATS: Final = ("float32", "float64")
_BYTES: Final = 4

# The latest wrapper of each model that lives, which trains the model's own weights, and the
# checksum of the weights before any wrapper trained them: they may be put back.
_wrappers: weakref.WeakKeyDictionary[Any, tuple[weakref.ref[Any], int]]
_wrappers = weakref.WeakKeyDictionary()


def look_at(model: Any, wrapper: Any) -> None:
    """Warns, once for each reason, of a model that is hardly what was meant to be wrapped.

    Args:
        model: the user's model, of Keras 3 or tf_keras.
        wrapper: what `apply_soft_weight_sharing` made of it.
    """
    checksum = _checksum(wrapper)
    before, dense = _wrappers.get(model, (None, checksum))
    trained = [] if dense == checksum else [*_trained_before(model, before)]
    remarks = [*trained, *_clustered(wrapper), *_mostly_frozen(wrapper)]
    _wrappers[model] = weakref.ref(wrapper), dense if trained else checksum
    for remark in remarks:
        warn(remark)


def _checksum(wrapper: Any) -> int:
    checksum = 0
    for group in wrapper.groups:
        for variable in group.variables:
            values = ops.convert_to_numpy(ops.cast(variable, "float32"))
            checksum = zlib.crc32(values.tobytes(), checksum)
    return checksum


def _trained_before(model: Any, reference: Any) -> Iterator[str]:
    """A cell that wraps was run again, after the one that trains."""
    before = None if reference is None else reference()
    steps = 0.0 if before is None else to_float(before.sharing.steps)
    if steps:
        yield (
            f"Model '{model.name}' was wrapped before, and trained for {steps:,.0f} steps "
            "under soft weight-sharing, which changed the weights of the model itself. To "
            "start again, load or build the dense model once more and wrap that. If you have "
            "loaded other weights since, or go on from here on purpose, ignore this warning."
        )


def _clustered(wrapper: Any) -> Iterator[str]:
    """A stripped model, or one with quantized weights, was wrapped again."""
    judged = [
        (path, values, distinct)
        for path, values in _shared_kernels(wrapper)
        if (distinct := _distinct_nonzero(values)) is not None
    ]
    found = [one for one in judged if one[2]]
    if not found or len(found) <= _MOST * len(judged):
        return
    path, values, distinct = found[0]
    yield (
        f"{len(found)} of the {len(judged)} larger weight tensors of '{wrapper.inner.name}' "
        f"hold few values ('{path}': {distinct} besides zero in {values.size:,} weights): it "
        "is clustered already, as after strip_soft_weight_sharing. Another training starts "
        "from these clusters and seldom gains anything. To start again, load the dense model "
        "and wrap that. To go on from here on purpose, ignore this warning."
    )


def _shared_kernels(wrapper: Any) -> Iterator[tuple[str, NDArray]]:
    for group in wrapper.groups:
        for position, variable in zip(group.positions, group.variables, strict=True):
            # What an initializer gives in bfloat16 has few values too.
            if len(variable.shape) > 1 and str(variable.dtype) in _LONG_FLOATS:
                path = wrapper.weight_choices[position].path
                yield path, ops.convert_to_numpy(variable).astype(np.float32)


def _distinct_nonzero(values: NDArray[np.float32]) -> int | None:
    """Counts the distinct non-zero values of a clustered tensor.

    Returns:
        0 for a tensor that is not clustered, as a pruned one, whose other weights differ;
        `None` where nothing can be told: few non-zero weights, or a constant, such as an
        initializer gives too.
    """
    nonzero = values[values != 0]
    if nonzero.size < _ENOUGH:
        return None
    distinct = distinct_values(nonzero)
    if distinct is None or distinct.size * _REPEATS > nonzero.size:
        return 0
    return distinct.size if distinct.size > 1 else None


def _mostly_frozen(wrapper: Any) -> Iterator[str]:
    """Most of the weights are in frozen layers, so that the file can hardly become smaller."""
    sizes = [(choice, int(np.prod(choice.shape))) for choice in wrapper.weight_choices]
    total = sum(size for _, size in sizes)
    shared = sum(size for choice, size in sizes if choice.shared)
    # Vectors that are not trainable are statistics of normalization.
    frozen = sum(size for c, size in sizes if c.reason == NOT_TRAINABLE and len(c.shape) > 1)
    if frozen < _ENOUGH or frozen <= _MOST * total:
        return
    yield (
        f"Only {shared:,} of the {total:,} weights of '{wrapper.inner.name}' are shared "
        f"({shared / total:.1%}): {frozen:,} are in frozen layers (trainable=False), stay as "
        f"they are, and take about {_BYTES * frozen:,} bytes in the file, which can become at "
        f"most {total / (total - shared):.1f} times smaller. Set trainable=True on these "
        "layers before wrapping, and train with a small learning rate. If only the rest is to "
        "become small, ignore this warning."
    )
