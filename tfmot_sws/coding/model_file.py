"""Saves stripped models as `.sws` files and loads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.arguments import check_flags, check_integer, check_kind
from tfmot_sws.coding.architecture import (
    CustomObjects,
    build_architecture,
    check_architecture,
    describe,
    variables_of,
)
from tfmot_sws.coding.container import (
    MAGIC,
    Section,
    frame,
    parse_sections,
    version_of,
    write_sections,
)
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.limits import check_memory
from tfmot_sws.coding.table import (
    DTYPES,
    TensorEntry,
    fits,
    max_entries,
    max_tensors,
)
from tfmot_sws.coding.tensors import DecodedTensor, EncodedTensors, TensorReader, encode_tensors
from tfmot_sws.coding.text import decode_text, encode_text
from tfmot_sws.models.libraries import check_model, view_of
from tfmot_sws.models.rebuild import finalize
from tfmot_sws.models.wrapped import check_plain
from tfmot_sws.whole_file import PathOrFile, check_writable, name_of, read_beginning_with


@dataclasses.dataclass(frozen=True)
class EncodedModel:
    """The encoded parts of a model.

    Args:
        architecture: its encoded text; empty if only weights are stored.
        tensors: its variables.
    """

    architecture: bytes
    tensors: EncodedTensors

    @property
    def sections(self) -> dict[Section, bytes]:
        """The sections of the file."""
        return {Section.ARCHITECTURE: self.architecture, **self.tensors.sections()}

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return sum(map(len, frame(self.sections)))


def save_compressed(
    model: keras.Model,
    path: PathOrFile,
    *,
    weights_only: bool = False,
    float16_rest: bool = False,
) -> None:
    """Writes a stripped model to one file, entropy-coded and without loss.

    The file holds the architecture, the codebooks, entropy-coded indices, and all other
    variables (biases, normalisation, states of random generators), compressed without
    loss. Optimizer, losses and metrics are not stored. An existing file stays complete
    until the new one replaces it.

    Args:
        model: a plain built Keras model, such as `strip_soft_weight_sharing` returns.
        path: path of the file, whose name should end in `.sws`; or a file opened in binary
            mode, such as `io.BytesIO()`.
        weights_only: leave the architecture out. Such a file is loaded into a model
            built by code: `load_compressed(path, model=model)`.
        float16_rest: store float32 variables without codebook as float16. This is NOT
            lossless: they keep 11 significant bits, and magnitudes below 6e-8 become 0.
            A variable with a magnitude above 65504, or with NaN, stays float32.

    Raises:
        OSError: the file cannot be written.
        TypeError: `model` is still wrapped, or is not a Keras model; or `path` is neither
            a path nor a binary file.
        ValueError: the model is not built; its architecture cannot be stored or rebuilt (it has
            lambdas, say) and `weights_only` is off; or a dtype cannot be stored.

    Example:
        >>> import pathlib, tempfile
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.set_weights([np.eye(8, 4), np.zeros(4)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "model.sws"
        ...     save_compressed(model, file)
        ...     loaded = load_compressed(file)
        >>> np.array_equal(loaded.layers[0].kernel, np.eye(8, 4))
        True
    """
    check_writable(path)
    encoded = encode_model(model, weights_only=weights_only, float16_rest=float16_rest)
    _check_size(model, encoded)
    if not weights_only:
        try:
            text, num_bytes = decode_text(encoded.architecture), len(encoded.architecture)
            check_architecture(text, variables_of(model), None, num_bytes)
        except CompressedFileError as error:
            raise ValueError(
                f"Model '{model.name}' ({type(model).__name__}) cannot be rebuilt from its "
                f"configuration: {error} A subclassed model needs get_config() and a "
                "build() that creates its layers; or use weights_only=True."
            ) from error
    write_sections(path, encoded.sections)


def load_compressed(
    path: PathOrFile,
    *,
    model: keras.Model | None = None,
    custom_objects: CustomObjects = None,
    max_bytes: int | None = None,
) -> keras.Model:
    """Loads a model that `save_compressed` wrote, bit for bit, on any Keras backend.

    Only integers may change their width: backends store the state of random generators,
    which `Dropout` has for instance, in different dtypes.

    A file may name only those parts of Keras that do nothing but arithmetic, and the
    classes and functions that you registered or pass in `custom_objects`. Lambdas, and all
    else, raise an error. Time and memory are bounded by the size of the file.

    Args:
        path: path of a `.sws` file, or a file opened in binary mode.
        model: a built model to fill with the weights; the architecture in the file is
            then ignored. `None`: build the model that the file describes.
        custom_objects: your own classes and functions by name, unless they are registered
            with `keras.saving.register_keras_serializable`.
        max_bytes: most bytes of memory that the weights of the model may take. `None`:
            16 MiB and 1024 times the size of the file; with `model`, no limit.

    Returns:
        The model, not compiled; `model` itself if it is given.

    Raises:
        CompressedFileError: the file is damaged, hostile, or of another version, or its
            weights take more than `max_bytes`.
        OSError: the file cannot be read.
        ValueError: the file holds weights only and `model` is `None`; or the variables of
            `model` do not match those of the file. `model` then stays unchanged.
    """
    if model is not None:
        check_model(model)
    if custom_objects is not None:
        check_kind("custom_objects", custom_objects, Mapping, "a mapping of names to classes")
    if max_bytes is not None:
        check_integer("max_bytes", max_bytes, 0)
    data = read_beginning_with(path, MAGIC)
    sections = parse_sections(data)
    reader = TensorReader(sections, len(data), version_of(data))
    expected = [entry.kind for entry in reader.entries]
    if model is None or max_bytes is not None:
        check_memory(reader.entries, len(data), max_bytes)
    if model is not None:
        _check_variables(model, reader.entries)
        # Decoding everything first keeps the model unchanged if the file is damaged. The
        # symbols take a byte a weight.
        return _fill(model, list(reader.read()))
    if Section.ARCHITECTURE in sections:
        stored = sections[Section.ARCHITECTURE]
        text, num_bytes = decode_text(stored, version_of(data)), len(stored)
        built = build_architecture(text, expected, custom_objects, num_bytes)
        return _fill(built, reader.read())
    raise ValueError(
        f"'{name_of(path)}' holds weights only. Build the model by its code and pass it: "
        "load_compressed(path, model=model)."
    )


def encode_model(
    model: keras.Model, *, weights_only: bool = False, float16_rest: bool = False
) -> EncodedModel:
    """Encodes a model; the arguments are those of `save_compressed`."""
    check_flags(weights_only=weights_only, float16_rest=float16_rest)
    check_stripped(model)
    architecture = b"" if weights_only else encode_text(describe(model))
    arrays = _Arrays(view_of(model).variables)
    return EncodedModel(architecture, encode_tensors(arrays, float16_rest=float16_rest))


class _Arrays(Sequence[NDArray[Any]]):
    """The values of variables, each copied from the backend on access to save memory."""

    def __init__(self, variables: list[keras.Variable]) -> None:
        self._variables = variables

    def __len__(self) -> int:
        return len(self._variables)

    def __getitem__(self, number: Any) -> Any:
        variable = self._variables[number]
        if variable.dtype not in DTYPES:
            raise ValueError(
                f"Variable '{variable.path}' has dtype {variable.dtype}; a compressed file "
                f"holds {', '.join(DTYPES)}."
            )
        # A backend may convert bfloat16 to float32.
        return np.asarray(ops.convert_to_numpy(variable)).astype(variable.dtype, copy=False)


def check_stripped(model: Any) -> None:
    """Checks that this is a built Keras model without wrapper.

    Raises:
        TypeError: it is not a Keras model, or still wrapped.
        ValueError: it is not built.
    """
    check_model(model)
    check_plain(model)
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so it has no weights. Call it once on a "
            "batch of data."
        )


def _check_size(model: keras.Model, encoded: EncodedModel) -> None:
    variables = view_of(model).variables
    if len(variables) > max_tensors(encoded.size):
        raise ValueError(
            f"The {len(variables)} variables of model '{model.name}' take {encoded.size} "
            "bytes only. Readers reject such files to limit their time."
        )
    size = sum(int(np.prod(v.shape)) for v in variables)
    if size > max_entries(encoded.size):
        raise ValueError(
            f"The {size} weights of model '{model.name}' take {encoded.size} bytes only: "
            "nearly all are equal. Readers reject such files to limit their memory."
        )


def _check_variables(model: keras.Model, entries: list[TensorEntry]) -> None:
    variables = view_of(model).variables
    if len(variables) != len(entries):
        raise ValueError(
            f"Model '{model.name}' has {len(variables)} variables, the file "
            f"{len(entries)}. Build the model with the code that built the stored one."
        )
    for variable, kind, entry in zip(variables, variables_of(model), entries, strict=True):
        if not fits(kind, entry.kind):
            raise ValueError(
                f"Variable '{variable.path}' is {variable.dtype} of shape "
                f"{tuple(variable.shape)}; the file holds {entry.dtype} of shape "
                f"{entry.shape}. Build the model with the code that built the stored one."
            )


def _fill(model: keras.Model, tensors: Iterable[DecodedTensor]) -> keras.Model:
    for variable, tensor in zip(view_of(model).variables, tensors, strict=True):
        variable.assign(tensor.array().astype(variable.dtype, copy=False))
    finalize(model)
    return model
