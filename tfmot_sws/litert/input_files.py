"""Reads and writes a model's inputs as .npz files, for the command line."""

from __future__ import annotations

import os
import zipfile
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tfmot_sws.litert.converter import input_structure


def save_inputs(path: str | os.PathLike[str], inputs: Any, model: keras.Model) -> None:
    """Writes inputs so that `load_inputs` returns them.

    Args:
        path: the .npz file to write.
        inputs: arrays in the structure that the model takes.
        model: the model. If it is subclassed and takes a dict, the file keeps the keys; in
            all other cases the arrays are stored in the order of the inputs.
    """
    arrays = keras.tree.map_structure(keras.ops.convert_to_numpy, inputs)
    if isinstance(inputs, dict) and not getattr(model, "inputs", None):
        np.savez(path, **arrays)
    else:
        np.savez(path, *keras.tree.flatten(arrays))


def load_inputs(path: str | os.PathLike[str], model: keras.Model) -> Any:
    """Reads inputs for a model.

    Args:
        path: an .npz file with one array for each input, named by the names of the inputs,
            or arr_0, arr_1, ... in the order of the inputs. A single array may have any
            name, unless the model is subclassed and takes a dict: then names are its keys.
        model: the model that takes the inputs.

    Returns:
        The arrays in the structure that the model takes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no .npz file, or its arrays do not fit the model's inputs.
    """
    arrays = _read(path)
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return _for_subclassed(arrays)
    if len(inputs) == len(arrays) == 1:
        return next(iter(arrays.values()))
    names = [tensor.name for tensor in inputs]
    numbered = _numbered(len(names))
    if set(arrays) not in (set(names), set(numbered)):
        raise ValueError(
            f"'{path}' has arrays {sorted(arrays)}; expected one for each input, named "
            f"{names} or {numbered}."
        )
    order = names if set(arrays) == set(names) else numbered
    return keras.tree.pack_sequence_as(input_structure(model), [arrays[n] for n in order])


def _read(path: str | os.PathLike[str]) -> dict[str, NDArray]:
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"'{path}' is no readable .npz file. Write one with numpy.savez."
        ) from error
    if not arrays:
        raise ValueError(f"'{path}' has no arrays.")
    return arrays


def _for_subclassed(arrays: dict[str, NDArray]) -> Any:
    """Returns the array, the list of arrays, or the dict that a subclassed model takes."""
    numbered = _numbered(len(arrays))
    if set(arrays) != set(numbered):
        return arrays
    return arrays["arr_0"] if len(arrays) == 1 else [arrays[name] for name in numbered]


def _numbered(count: int) -> list[str]:
    """Lists the names that `numpy.savez` gives to arrays without names."""
    return [f"arr_{i}" for i in range(count)]
