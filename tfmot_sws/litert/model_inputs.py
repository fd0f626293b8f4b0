"""Checks and makes up inputs of a model before anything is converted."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tfmot_sws.models.libraries import walk

_MADE_UP_EXAMPLES = 4


def as_inputs(data: Any, model: keras.Model, argument: str) -> Any:
    """Returns a user's inputs as arrays of the types that the model takes.

    Args:
        data: an array or tensor, or a list, tuple or dict of them.
        model: the model that takes them. One without symbolic inputs (subclassed) says
            nothing about types and shapes; its inputs are only turned into arrays.
        argument: what the user calls this data, for messages.

    Returns:
        NumPy arrays in the same structure. Integers and bytes become floats where the model
        takes floats, as Keras does by itself and LiteRT does not.

    Raises:
        ValueError: number, shapes or types of the arrays do not fit the model, or there is
            no example.
    """
    leaves = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(data)]
    tensors = getattr(model, "inputs", None)
    if tensors:
        if len(leaves) != len(tensors):
            raise ValueError(
                f"'{model.name}' takes {len(tensors)} inputs {[t.name for t in tensors]}; "
                f"{argument} has {len(leaves)} arrays. Pass one array for each input, as for "
                "model.predict."
            )
        leaves = [_fit(a, t, argument) for a, t in zip(leaves, tensors, strict=True)]
    lengths = {len(leaf) if leaf.ndim else 0 for leaf in leaves}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{argument} must have the same number of examples, at least one, for each input; "
            f"received arrays of shapes {[leaf.shape for leaf in leaves]}."
        )
    return keras.tree.pack_sequence_as(data, leaves)


def cast_input(array: NDArray, dtype: Any, name: str) -> NDArray:
    """Turns integers into the floats that an input takes; LiteRT itself takes no others.

    Raises:
        ValueError: the values are not of that type, such as 0.5 for an integer.
    """
    target = np.dtype(dtype)
    if array.dtype == target or target.kind in "SUO":
        return array
    try:
        with np.errstate(invalid="ignore"):
            cast = array.astype(target)
        is_kept = target.kind == "f" or bool(np.all(cast == array))
    except (TypeError, ValueError):
        is_kept = False
    if not is_kept:
        raise ValueError(
            f"Input '{name}' takes {target}; received {array.dtype}, with values that are not "
            "of that type."
        )
    return cast


def make_up(
    details: dict[str, Any], names: list[str], model: keras.Model, size: int
) -> list[NDArray]:
    """Makes random inputs for a file: normal floats, and integers that embeddings know.

    Args:
        details: of the file's inputs by name, as LiteRT's signature runner gives them.
        names: which of these to make.
        model: the model that the file was made from.
        size: of axes that may have any.
    """
    generator = np.random.default_rng(0)
    highest = _highest_index(model)

    def make(name: str) -> NDArray:
        free = [int(n) if n > 0 else size for n in details[name]["shape_signature"][1:]]
        dtype, shape = details[name]["dtype"], [_MADE_UP_EXAMPLES, *free]
        if np.issubdtype(dtype, np.floating):
            return generator.standard_normal(shape).astype(dtype)
        if not np.issubdtype(dtype, np.integer):
            return np.zeros(shape, dtype)
        # 0 often stands for padding, and a sequence of padding alone has no mean.
        return generator.integers(min(1, highest), highest, shape, endpoint=True).astype(dtype)

    return [make(name) for name in names]


def _highest_index(model: keras.Model) -> int:
    """Returns the highest integer that every embedding of a model takes; 1 without any."""
    sizes = [getattr(layer, "input_dim", None) for layer in walk(model)]
    return max(0, min((size - 1 for size in sizes if isinstance(size, int)), default=1))


def _fit(array: NDArray, tensor: Any, argument: str) -> NDArray:
    expected = tuple(tensor.shape)
    fits = len(expected) == array.ndim and all(
        n is None or n == m for n, m in zip(expected[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"Input '{tensor.name}' takes arrays of shape {expected}; {argument} has one of "
            f"shape {array.shape}."
        )
    dtype = str(getattr(tensor.dtype, "name", tensor.dtype))
    # Models in half precision are exported as float32.
    dtype = "float32" if dtype in ("float16", "bfloat16") else dtype
    return array if dtype == "string" else cast_input(array, np.dtype(dtype), tensor.name)
