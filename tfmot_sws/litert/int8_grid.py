"""Moves weights onto an int8 grid, from which they are stored as int8 without loss."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.litert.integers import find_integers
from tfmot_sws.models.codebook import is_clustered
from tfmot_sws.models.entropy import MAX_CODEBOOK_SIZE
from tfmot_sws.models.libraries import check_model, view_of
from tfmot_sws.models.rebuild import copy_float32
from tfmot_sws.models.selection import is_kernel
from tfmot_sws.models.wrapped import check_plain

_STEPS = 127
# How many steps the greatest weight may be. With ten steps to choose from for each integer, a
# ResNet-8's outputs moved a third less than with one.
_SCALES = np.arange(10, 10 * _STEPS + 1) / 10
# A step of 16 significant bits times an integer of 7 bits fits the 24 bits of float32, so
# scale times integer gives back each weight bit for bit.
_STEP_BITS = 16
# A kernel that one step moves further, relative to its norm, gets a step for each channel.
# Layers multiply such errors: 3 % in three kernels of a deep autoencoder moved its outputs by
# 37 %, and by 7 % after this. Kernels of a bell shape move by 0.3 to 0.9 %.
_FAR = 0.01


def place_on_int8_grid(model: keras.Model) -> keras.Model:
    """Moves every kernel's values onto integers of magnitude 127 or less, times a step.

    `convert_to_tflite(..., "int8_codebook")` does this too. Call it on a stripped model to
    measure beforehand how much accuracy it costs. For a kernel w:

        step = max|w| / m, rounded up to 16 significant bits
        w   <- step * round(w / step)

    For a codebook, m <= 127 is chosen, in tenths, such that the weights move least in the mean
    square, and none by more than max|w| / 254; for a kernel of more than 256 values it is 127.
    A kernel whose norm this moves by more than 1 %, because few weights are far greater than
    the others, has a step for each output channel, found in the same way.

    A kernel that lies on a grid already, because its values are integers of magnitude 127
    or less times a step, or times one for each channel, stays as it is.

    Args:
        model: a stripped model that can be rebuilt from its configuration.

    Returns:
        A new model, float32, not compiled, with the same architecture and names. Every
        kernel and embedding lies on its grid: a value has moved by at most max|w| / 254 (and
        2e-5 of that for the rounded step), equal values stay equal in each output channel,
        and zero stays exactly zero.

    Raises:
        TypeError: the model, or one that it holds, is still wrapped.
        ValueError: the model cannot be rebuilt from its configuration.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> old = np.float32([[0.3101, 0.3123], [-0.7, 0.7]])
        >>> model.set_weights([old, np.float32([0, 0.1])])
        >>> new, bias = place_on_int8_grid(model).get_weights()
        >>> bool(0 < np.abs(new - old).max() < 0.7 / 254)
        True
    """
    check_model(model)
    check_plain(model)
    return _copy_placed(model, lambda _: True)


def place_clustered_on_int8_grid(model: keras.Model) -> keras.Model:
    """As `place_on_int8_grid`, but kernels without a codebook stay as they are.

    A model that has none, or that cannot be rebuilt, is returned itself.
    """
    kernels = filter(is_kernel, view_of(model).variables)
    if not any(is_clustered(ops.convert_to_numpy(kernel)) for kernel in kernels):
        return model
    try:
        return _copy_placed(model, is_clustered)
    except ValueError:
        return model


def _copy_placed(
    model: keras.Model, should_move: Callable[[NDArray[np.float32]], bool]
) -> keras.Model:
    placed = copy_float32(model)
    for variable in view_of(placed).variables:
        values = ops.convert_to_numpy(variable)
        if is_kernel(variable) and should_move(values):
            variable.assign(_place(values))
    return placed


def _place(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # Adding zero makes negative zeros positive.
    if not values.any() or find_integers(values) is not None:
        return values + np.float32(0)
    placed = _place_with_one_step(values)
    axis = _channel_axis(values)
    if axis is None or _relative_move(placed, values) <= _FAR:
        return placed
    channels = np.moveaxis(values, axis, 0)
    return np.moveaxis(np.stack([_place_with_one_step(c) for c in channels]), 0, axis)


def _channel_axis(values: NDArray[np.float32]) -> int | None:
    """Returns the last axis of two entries or more; `None` for a single channel or weight.

    A depthwise kernel of shape (height, width, channels, 1) has its channels there, too.
    """
    axes = [axis for axis, length in enumerate(values.shape) if length > 1]
    return axes[-1] if len(axes) > 1 else None


def _relative_move(placed: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    # In float64, where the squares of tiny weights are not 0.
    move = np.linalg.norm((placed - values).astype(float))
    return float(move / np.linalg.norm(values.astype(float)))


def _place_with_one_step(values: NDArray[np.float32]) -> NDArray[np.float32]:
    greatest = float(np.max(np.abs(values), initial=0.0))
    if not greatest:
        return values + np.float32(0)
    step = _rounded_step(greatest / _best_scale(values, greatest))
    return np.round(values / step) * step + np.float32(0)


def _best_scale(values: NDArray[np.float32], greatest: float) -> float:
    """Returns how many steps `greatest` is."""
    codebook, counts = np.unique(values, return_counts=True)
    if codebook.size > MAX_CODEBOOK_SIZE:
        return _STEPS
    integers = np.outer(_SCALES, codebook / greatest)
    moves = (np.rint(integers) - integers) / _SCALES[:, None]
    errors = moves**2 @ counts
    too_far = np.max(np.abs(moves), axis=1) > 0.5 / _STEPS
    return float(_SCALES[np.argmin(np.where(too_far, np.inf, errors))])


def _rounded_step(step: float) -> np.float32:
    mantissa, exponent = np.frexp(step)
    return np.float32(np.ldexp(np.ceil(np.ldexp(mantissa, _STEP_BITS)), exponent - _STEP_BITS))
