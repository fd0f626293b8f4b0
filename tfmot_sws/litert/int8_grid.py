"""Moves weights onto an int8 grid, and then stores them as int8 without loss."""

from __future__ import annotations

import re
import warnings

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.litert.converter import quietly
from tfmot_sws.litert.file import constants, operators, parse
from tfmot_sws.models.libraries import check_model, view_of
from tfmot_sws.models.rebuild import copy_float32
from tfmot_sws.models.selection import is_kernel

_STEPS = 127
# A step of 16 significant bits times an integer of 7 bits fits the 24 bits of float32, so
# scale times integer gives back each weight bit for bit.
_STEP_BITS = 16
# A smaller tensor that stays float32 costs too few bytes for a warning.
_WORTH_A_WARNING = 1024


def place_on_int8_grid(model: keras.Model) -> keras.Model:
    """Moves every kernel's values onto multiples of its greatest magnitude over 127.

    `convert_to_tflite(..., "int8_codebook")` does this too. Call it on a stripped model to
    measure beforehand how much accuracy it costs. For a kernel w:

        step = max|w| / 127, rounded up to 16 significant bits
        w   <- step * round(w / step)

    Args:
        model: a stripped model that can be rebuilt from its configuration.

    Returns:
        A new model, float32, not compiled, with the same architecture and names. Every
        kernel and embedding lies on its grid: a value has moved by at most max|w| / 254 (and
        2e-5 of that for the rounded step), equal values stay equal, and zero stays exactly
        zero.

    Raises:
        ValueError: the model cannot be rebuilt from its configuration.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> model.set_weights([np.float32([[0, 0.3], [-0.7, 0.7]]), np.float32([0, 0.1])])
        >>> kernel, bias = place_on_int8_grid(model).get_weights()
        >>> (127 * kernel / kernel.max()).round(3).tolist()
        [[0.0, 54.0], [-127.0, 127.0]]
    """
    check_model(model)
    placed = copy_float32(model)
    for variable in view_of(placed).variables:
        if is_kernel(variable):
            variable.assign(_place(ops.convert_to_numpy(variable)))
    return placed


def store_as_int8(tflite: bytes) -> bytes:
    """Stores the kernels of a float32 file that lie on an int8 grid as int8.

    Kernels off the grid stay float32, for instance those that the converter has scaled by
    a BatchNorm. Embeddings stay float32 too, because LiteRT reads them by gathering.

    Args:
        tflite: the bytes of a float32 .tflite file.

    Returns:
        The bytes of a file whose outputs are the same.

    Warns:
        UserWarning: kernels of 1,024 entries or more are not on the grid.
    """
    from ai_edge_quantizer import qtyping, quantizer

    scopes, names = _off_grid(tflite)
    if names:
        warnings.warn(
            f"Tensors {names} do not lie on an int8 grid, because the converter has changed "
            "them, as it does with kernels before a BatchNorm. They stay float32.",
            UserWarning,
            stacklevel=2,
        )
    with quietly():
        job = quantizer.Quantizer(tflite)
        job.add_weight_only_config(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            num_bits=8,
            granularity=qtyping.QuantGranularity.TENSORWISE,
        )
        for scope in scopes:
            job.update_quantization_recipe(
                regex=f"^{re.escape(scope)};?$",
                operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
                algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
            )
        result = job.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _place(values: NDArray[np.float32]) -> NDArray[np.float32]:
    step = _step(values)
    # Adding zero makes negative zeros positive.
    return np.round(values / step) * step + np.float32(0) if step else values


def _step(values: NDArray[np.float32]) -> np.float32:
    mantissa, exponent = np.frexp(np.max(np.abs(values), initial=0.0) / np.float64(_STEPS))
    return np.float32(np.ldexp(np.ceil(np.ldexp(mantissa, _STEP_BITS)), exponent - _STEP_BITS))


def _off_grid(tflite: bytes) -> tuple[list[str], list[str]]:
    """Finds kernels off the grid.

    Returns:
        The names of the outputs of all operators that read one, by which the quantizer
        identifies operators; and the names of the large ones among these kernels.
    """
    file = parse(tflite)
    off = {
        id(tensor): tensor
        for tensor, values in constants(file)
        if len(tensor.shape) > 1
        and values.dtype == np.float32
        and not np.array_equal(_place(values), values)
    }
    scopes = [
        graph.tensors[place].name.decode()
        for graph, operator in operators(file)
        if any(id(graph.tensors[place]) in off for place in operator.inputs if place >= 0)
        for place in operator.outputs
    ]
    large = [t.name.decode() for t in off.values() if np.prod(t.shape) >= _WORTH_A_WARNING]
    return scopes, large
