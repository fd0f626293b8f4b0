"""Measures the parts of a compressed file, in bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfmot_sws.coding.model_file import encode_model
from tfmot_sws.models.paths import paths_of


@dataclasses.dataclass(frozen=True)
class CodedSizes:
    """Bytes of a `.sws` file by part; the parts sum to the size of the file.

    Args:
        architecture: the model's configuration.
        codebooks: the values of all codebooks.
        indices: the indices of all clustered variables.
        rest: the values of all other variables.
        framing: magic, version, section heads, checksums, and the table of tensors.
        variables: path and bytes of each of `model.variables`; the bytes are its part of
            `indices` or `rest`.
    """

    architecture: int
    codebooks: int
    indices: int
    rest: int
    framing: int
    variables: tuple[tuple[str, int], ...]

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by the name of the part."""
        names = ("architecture", "codebooks", "indices", "rest", "framing")
        return {name: getattr(self, name) for name in names}

    @property
    def total(self) -> int:
        """Size of the file."""
        return sum(self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns the parts, the total and the variables as plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "total": self.total}


def sizes_as_storable(model: keras.Model) -> CodedSizes:
    """The sizes of the whole file, or of the weights alone if no file can hold the rest."""
    try:
        return coded_sizes(model)
    except ValueError:
        return coded_sizes(model, weights_only=True)


def coded_sizes(
    model: keras.Model, *, weights_only: bool = False, float16_rest: bool = False
) -> CodedSizes:
    """Measures the file that `save_compressed` would write, without writing it.

    Args:
        model: a plain built Keras model, such as `strip_soft_weight_sharing` returns.
        weights_only: as for `save_compressed`.
        float16_rest: as for `save_compressed`.

    Raises:
        TypeError: the model is still wrapped.
        ValueError: it is not built, or its architecture cannot be stored.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> sizes = coded_sizes(model, weights_only=True)
        >>> sizes.architecture, sizes.total == sum(sizes.parts.values())
        (0, True)
    """
    encoded = encode_model(model, weights_only=weights_only, float16_rest=float16_rest)
    tensors = encoded.tensors
    parts = {
        "architecture": len(encoded.architecture),
        "codebooks": tensors.codebook_bytes,
        "indices": tensors.index_bytes,
        "rest": sum(tensors.tensor_bytes) - tensors.index_bytes,
    }
    paths = paths_of(model).values()
    return CodedSizes(
        **parts,
        framing=encoded.size - sum(parts.values()),
        variables=tuple(zip(paths, tensors.tensor_bytes, strict=True)),
    )
