"""Makes every output of an example an observation of its own, for the sensitivity.

Where an example has many outputs, such as a class for each pixel or token, or many labels that
can all be true, each of them is an observation of its own. The gradients of a picture's pixels
cancel in the gradient of its mean loss, whose square said a hundredth of a U-Net's curvature.
So the gradient of each observation gets a random sign: what they have in common is gone from
the square, and what is left is the sum of their own squares.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, Final

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

Tensor = Any

# 1 or -1 at random, the same on all backends; they begin again where a batch has more
# observations.
SIGNS: Final = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), 1 << 16)


def with_random_signs(outputs: Any, targets: Any, signs: Tensor, separate: Tensor) -> Any:
    """Outputs whose gradients get random signs, as `_RandomSigns` gives them."""
    leaves = [
        _RandomSigns(signs, None if place is None else separate[place])(leaf)
        for leaf, place in places_of_targets(keras.tree.flatten(outputs), targets)
    ]
    return keras.tree.pack_sequence_as(outputs, leaves)


class _RandomSigns(keras.layers.Layer):
    """Gives back its inputs, and multiplies the gradient of each observation by s sqrt(P).

    s is 1 or -1 at random. P is the number of observations an example: positions in all axes
    between the first, of examples, and the last, times the values of the last axis if they
    are observations of their own. The loss being their mean, the square of the gradient is
    then on average P times the mean of their own squares, as if each were an example. It is
    a layer because a layer hands on the mask of padded sequences.

    Args:
        signs: (number of examples,), 1 or -1; each multiplies those within an example, which
            are the same in every batch.
        separate: 1 if the values of the last axis are observations, else 0; `None`: 0.
    """

    def __init__(self, signs: Tensor, separate: Tensor | None) -> None:
        super().__init__(name="random_signs", autocast=False)
        self.supports_masking = True
        self._signs, self._separate = signs, separate

    def call(self, outputs: Tensor) -> Tensor:
        if not keras.backend.is_float_dtype(outputs.dtype):
            return outputs
        shape = ops.shape(outputs)
        factor = self._factors((*shape[:-1], 1)) if len(shape) > 2 else 1.0
        if self._separate is not None:
            factor = factor + self._separate * (self._factors(shape) - factor)
        if isinstance(factor, float):
            return outputs
        # The value stays as it is, bit for bit.
        change = outputs - ops.stop_gradient(outputs)
        return outputs + ops.cast(factor - 1, outputs.dtype) * change

    def _factors(self, shape: tuple[Any, ...]) -> Tensor:
        number = math.prod(shape)
        drawn = ops.take(SIGNS, ops.arange(number) % len(SIGNS))
        of_examples = ops.reshape(self._signs, (-1, *[1] * len(shape[1:])))
        root = ops.sqrt(ops.cast(math.prod(shape[1:]), "float32"))
        return root * of_examples * ops.reshape(drawn, shape)


def places_of_targets(outputs: list[Any], targets: Any) -> list[tuple[Any, int | None]]:
    """Outputs, each with the place of its target among all, if they have the same shape.

    Then the last axis holds classes or values, and `separate_values` tells which. One value
    alone is no question.
    """
    leaves = [leaf for leaf in keras.tree.flatten(targets) if leaf is not None]
    if len(leaves) != len(outputs):
        return [(output, None) for output in outputs]
    pairs = enumerate(zip(outputs, leaves, strict=True))
    alike = {
        place
        for place, (output, leaf) in pairs
        if len(output.shape) > 1
        and output.shape[-1] != 1
        and output.shape[1:] == leaf.shape[1:]
    }
    return [(output, i if i in alike else None) for i, output in enumerate(outputs)]


def separate_values(targets: Any) -> NDArray[np.float32]:
    """For each array of targets 1 where its last axis holds values, 0 where it holds classes.

    The shares of classes, as in one-hot targets, are none below 0 and together 1. Numbers to
    be predicted, and labels of which several can be true, are not.
    """
    leaves = [
        ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(targets) if leaf is not None
    ]
    return np.array([not _are_shares(leaf) for leaf in leaves], np.float32)


def _are_shares(targets: NDArray[Any]) -> bool:
    if targets.ndim < 2 or targets.dtype.kind not in "biuf":
        return True
    sums = targets.sum(axis=-1, dtype=float)
    return bool(np.all(targets >= 0) and np.all(np.abs(sums - 1) < 1e-3))


def signs_of(x: Any) -> NDArray[np.float32]:
    """1 or -1 for each example; the same batch has the same ones, so trainings repeat."""
    first = ops.convert_to_numpy(keras.tree.flatten(x)[0])
    draw = np.random.default_rng(zlib.crc32(first.tobytes()))
    return draw.choice(np.array([-1, 1], np.float32), len(first))
