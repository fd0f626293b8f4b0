"""Clustered tensors: the few values they hold and which entry holds which."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from tfmot_sws.models.entropy import MAX_CODEBOOK_SIZE, entropy_bits
from tfmot_sws.models.libraries import check_model, native, view_of
from tfmot_sws.models.paths import paths_of
from tfmot_sws.models.wrapped import check_plain


@dataclasses.dataclass(frozen=True)
class ClusteredTensor:
    """Codebook and indices; `codebook[indices]` is the tensor, bit for bit.

    Args:
        codebook: float32, shape (V,), ascending and distinct, V <= 256.
        indices: unsigned integers below V, the shape of the tensor.

    Example:
        >>> clustered = ClusteredTensor.from_array(np.float32([[0, 0.5], [0, 0]]))
        >>> clustered.codebook.tolist(), clustered.indices.tolist()
        ([0.0, 0.5], [[0, 1], [0, 0]])
    """

    codebook: NDArray[np.float32]
    indices: NDArray[np.uint8]

    @classmethod
    def from_array(cls, array: ArrayLike) -> ClusteredTensor:
        """Reads codebook and indices from a tensor of at most 256 distinct values.

        Raises:
            ValueError: when the tensor holds more distinct values, or NaN.
        """
        array = np.asarray(array, np.float32)
        codebook = distinct_values(array)
        if codebook is None:
            raise ValueError(
                f"A tensor of shape {array.shape} holds NaN or more than "
                f"{MAX_CODEBOOK_SIZE} distinct values, so it has no codebook. Pass a "
                "tensor of a model returned by strip_soft_weight_sharing."
            )
        indices = np.searchsorted(codebook, array.reshape(-1))
        return cls(codebook, indices.astype(np.uint8).reshape(array.shape))

    def decode(self) -> NDArray[np.float32]:
        """The tensor itself, float32."""
        return self.codebook[self.indices]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.indices.shape

    @property
    def counts(self) -> NDArray[np.intp]:
        """How often each codebook value occurs, shape (V,)."""
        return np.bincount(self.indices.reshape(-1), minlength=self.codebook.size)

    @property
    def num_zeros(self) -> int:
        """Number of entries that are exactly zero."""
        return int(self.counts[self.codebook == 0].sum())

    @property
    def entropy_bits_per_weight(self) -> float:
        """Order-0 entropy of the indices in bits per weight."""
        return entropy_bits(self.counts)


def distinct_values(array: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The ascending distinct values of a tensor, or `None` when they are too many.

    A negative zero counts as zero. Large dense tensors are turned down after a look
    at a small part of them.
    """
    flat = np.asarray(array, np.float32).reshape(-1) + np.float32(0)
    head = np.unique(flat[: 4 * MAX_CODEBOOK_SIZE])
    if head.size > MAX_CODEBOOK_SIZE:
        return None
    values = np.unique(flat)
    if values.size > MAX_CODEBOOK_SIZE or np.isnan(values).any():
        return None
    return values


def is_clustered(array: NDArray[np.float32]) -> bool:
    """Whether a tensor holds few enough distinct values for a codebook to pay.

    That is floating point, at least two entries a distinct value, and at most 256 values.
    """
    if not np.issubdtype(array.dtype, np.floating) or not array.size:
        return False
    values = distinct_values(array)
    return values is not None and 2 * values.size <= array.size


def get_codebooks(model: keras.Model) -> dict[str, ClusteredTensor]:
    """Codebook and indices of every clustered tensor of a stripped model.

    They are read from the values, so a model that was saved and loaded has them too.

    Args:
        model: a plain model, such as `strip_soft_weight_sharing` returns.

    Returns:
        By variable path, the tensors for which `is_clustered` holds: at most 256 distinct
        values, and at least two entries a value.

    Raises:
        TypeError: `model` is still wrapped.
    """
    check_model(model)
    check_plain(model)
    paths = paths_of(model)
    arrays = {paths[id(native(v))]: ops.convert_to_numpy(v) for v in view_of(model).weights}
    return {
        path: ClusteredTensor.from_array(values)
        for path, values in arrays.items()
        if is_clustered(values)
    }
