"""Measures the `.sws` file that a model in training would become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.advice import warn
from tfmot_sws.coding.sizes import sizes_as_storable
from tfmot_sws.models.libraries import native, view_of
from tfmot_sws.models.rebuild import float32_clone
from tfmot_sws.models.selection import is_kernel
from tfmot_sws.prior.survival import least_weights
from tfmot_sws.training.size_target import MOST_BITS, FileSize, SizeTarget
from tfmot_sws.training.strip import freeze_short_norms, put_values
from tfmot_sws.training.unshared import Unshared

# The share of a file that may go into what is not shared without a word.
_MOST_OTHERS = 0.8
# So many bits are enough for a weight, whatever else the file holds.
_ENOUGH_BITS = 1.0
# So near the smallest file, as a ratio, some trainings miss the size that was asked for.
_NEAR_SMALLEST = 1.1
# So often what the weights take in the smallest file is still little for them.
_LITTLE_ROOM = 2.0


class FileMeter:
    """Measures files of one model with whatever values its variables have.

    It keeps a plain copy of the model, because the architecture is part of the file.

    Args:
        model: the user's model, built.
        shared: those of its variables that are under soft weight-sharing.
        unshared: what stripping does to the others.

    Raises:
        ValueError: the model cannot be rebuilt from its configuration.
    """

    def __init__(self, model: Any, shared: Sequence[Any], unshared: Unshared) -> None:
        self._plain, self._unshared = float32_clone(model), unshared
        freeze_short_norms(self._plain, unshared)
        self._sources = view_of(model).variables
        taken = {id(native(variable)) for variable in shared}
        self._is_shared = [id(native(v)) in taken for v in self._sources]

    @property
    def dense_bytes(self) -> int:
        """Bytes of all variables, uncompressed."""
        variables = view_of(self._plain).variables
        return sum(ops.convert_to_numpy(variable).nbytes for variable in variables)

    def measure(self, values: Sequence[NDArray[Any]]) -> FileSize:
        """The size of the file with these values of `model.variables`."""
        put_values(self._plain, values)
        sizes = sizes_as_storable(self._plain)
        tensors = zip(self._is_shared, sizes.variables, strict=True)
        shared = sum(size for is_shared, (_, size) in tensors if is_shared)
        return FileSize(sizes.total, sizes.codebooks + shared)

    def measure_smallest(self) -> FileSize:
        """The size of the file in which no kernel has more weights than it must keep."""
        values = {id(native(v)): ops.convert_to_numpy(v) for v in self._sources}
        for variable, is_shared in zip(self._sources, self._is_shared, strict=True):
            if is_shared:
                key = id(native(variable))
                values[key] = _sparsest(values[key], is_kernel(variable))
        values |= self._unshared.stripped(values, keep_statistics=False)
        return self.measure([values[id(native(v))] for v in self._sources])


def _sparsest(weights: NDArray[Any], is_kernel: bool) -> NDArray[Any]:
    """Ones at the largest weights, as many as the rule of assignment always keeps."""
    sparse = np.zeros_like(weights)
    kept = min(least_weights(weights.size), int(np.count_nonzero(weights))) if is_kernel else 0
    if kept:
        places = np.argpartition(np.abs(weights), -kept, axis=None)[-kept:]
        sparse.flat[places] = 1
    return sparse


def bits_to_spend(
    target: SizeTarget, model: Any, shared: Sequence[Any], unshared: Unshared
) -> float:
    """The bits that a shared weight may take for the file to have its size.

    Args:
        target: the size.
        model: the user's model, with its pretrained weights.
        shared: its variables that are to be shared.
        unshared: what stripping does to the others.

    Raises:
        ValueError: what cannot be shared is larger already; or there are more bits to spend
            than indices take; or the model cannot be rebuilt from its configuration.

    Warns:
        SoftWeightSharingWarning: the size may be missed, or hardly a bit is left to a weight.
    """
    meter = FileMeter(model, shared, unshared)
    smallest = meter.measure_smallest()
    num_weights = sum(math.prod(v.shape) for v in shared)
    wanted = target.num_bytes(meter.dense_bytes, smallest, num_weights)
    largest = smallest.others + MOST_BITS * num_weights / 8
    if wanted <= smallest.total:
        raise ValueError(
            f"{target} asks for a file of {wanted:,.0f} bytes, but {smallest.total:,} bytes "
            f"of model '{model.name}' are needed for architecture, vocabularies, "
            "normalisation, what else is not shared, such as frozen layers, and the few "
            "weights without which a layer would die. Ask for more "
            f"than {_in_words(target, meter.dense_bytes, smallest.total)}."
        )
    if wanted > largest:
        raise ValueError(
            f"{target} asks for a file of {wanted:,.0f} bytes, but that of model "
            f"'{model.name}' takes {largest:,.0f} bytes at most: 8 bits a shared weight. Ask "
            f"for less than {_in_words(target, meter.dense_bytes, largest)}."
        )
    bits = 8 * (wanted - smallest.others) / num_weights
    _warn_if_tight(target, model.name, wanted, smallest, bits)
    return bits


def _warn_if_tight(
    target: SizeTarget, name: str, wanted: float, smallest: FileSize, bits: float
) -> None:
    """Warns of a size that may be missed, or that leaves hardly a bit to a weight."""
    if bits >= _ENOUGH_BITS:
        return
    room = wanted - smallest.others
    if wanted < _NEAR_SMALLEST * smallest.total and room < _LITTLE_ROOM * smallest.shared:
        warn(
            f"{target} asks for a file of {wanted:,.0f} bytes, and the smallest that model "
            f"'{name}' can become takes {smallest.total:,}. So near to it a training may "
            "miss the size by more than 3 %, and nearly every weight becomes zero. Ask for a "
            "larger file; or look at the size that was reached before you use it."
        )
    elif smallest.others > _MOST_OTHERS * wanted and target.target_bits is None:
        warn(
            f"{target} asks for a file of {wanted:,.0f} bytes, and {smallest.others:,} of them "
            f"go into what model '{name}' does not share: architecture, vocabularies, "
            f"normalisation, frozen layers. That leaves {bits:.2f} bits to each shared weight, "
            "and accuracy may suffer. Ask for a larger file; or make the rest smaller, such as "
            "a vocabulary. If that is what you want, ignore this warning."
        )


def _in_words(target: SizeTarget, dense_bytes: int, num_bytes: float) -> str:
    """A limit in bytes, and as a ratio if the target is one."""
    if target.target_ratio is None:
        return f"{num_bytes:,.0f} bytes"
    return f"{num_bytes:,.0f} bytes, which is a ratio of {dense_bytes / num_bytes:.1f}"
