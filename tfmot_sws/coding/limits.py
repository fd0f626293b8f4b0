"""Bounds the work that a file can ask for, by the size of what it stores.

Every limit is far above what trained models need, and is checked before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.table import TensorEntry
from tfmot_sws.models.rebuild import dicts_in

# Bytes of weights that any file may ask for, and how many more for each of its bytes: a
# thousandth of a byte for each byte of a weight is less than trained networks take.
_FREE_BYTES: Final = 1 << 24
_BYTES_PER_BYTE: Final = 1 << 10
# Layers and calls of layers, likewise. Each takes a millisecond or so.
_FREE_CALLS: Final = 1 << 8
_BYTES_PER_CALL: Final = 2
# Values in the text, each of which takes up to 100 bytes once it is parsed.
_MAX_VALUES: Final = 1 << 19
# Numbers in the settings. Shapes and seeds may be larger, since nothing is made of them.
_MAX_NUMBER: Final = 1 << 24
_MAX_SHAPE_OR_SEED: Final = (1 << 64) - 1
_SHAPES_AND_SEEDS: Final = (
    "batch_input_shape",
    "batch_shape",
    "input_shape",
    "seed",
    "seed_generator",
    "shape",
    "shared_object_id",
    "value",
)
# Settings for which Keras makes lists, tables or loops of that length.
_MAX_OF_SETTING: Final = {
    "chain_depth": 64,
    "fft_length": 1 << 14,
    "indices_or_sections": 1 << 10,
    "ngrams": 64,
    "num_chains": 64,
    "num_mel_bins": 512,
    "num_oov_indices": 1 << 16,
    "num_ops": 64,
    "num_or_size_splits": 1 << 10,
    "power_iterations": 1 << 10,
    "top_paths": 64,
}
# Layers that always have a weight.
_WITH_WEIGHTS: Final = re.compile(
    r"(Separable|Depthwise)?Conv\w+|(\w*Dense)|\w*Embedding|(LSTM|GRU|SimpleRNN)(Cell)?"
    r"|BatchNormalization|MultiHeadAttention"
)
# Parts that are no layers and take no time.
_SETTINGS_MODULES: Final = (
    "keras",
    "keras.constraints",
    "keras.dtype_policies",
    "keras.initializers",
    "keras.mixed_precision",
    "keras.quantizers",
    "keras.regularizers",
)


def default_max_bytes(num_bytes: int) -> int:
    """Returns the bytes of weights that a file of this size may ask for by default."""
    return _FREE_BYTES + _BYTES_PER_BYTE * num_bytes


def check_memory(entries: Sequence[TensorEntry], num_bytes: int, max_bytes: int | None) -> None:
    """Checks that the weights of a file do not take more memory than is allowed.

    Args:
        entries: the table of tensors.
        num_bytes: size of the file.
        max_bytes: what the reader allows; `None` for `default_max_bytes`.

    Raises:
        CompressedFileError: they take more.
    """
    limit = default_max_bytes(num_bytes) if max_bytes is None else max_bytes
    needed = sum(entry.num_bytes for entry in entries)
    if needed > limit:
        raise CompressedFileError(
            f"The file of {num_bytes} bytes holds a model whose weights take {needed} bytes, "
            f"more than the {limit} that are allowed. If you know where the file comes from, "
            f"pass max_bytes={needed}."
        )


def check_text(text: bytes) -> None:
    """Checks the number of values in a text of JSON before it is parsed.

    Raises:
        CompressedFileError: there are too many.
    """
    num_values = sum(map(text.count, (b",", b":", b"[", b"{")))
    if num_values > _MAX_VALUES:
        raise CompressedFileError(
            f"The architecture has {num_values} values, at most {_MAX_VALUES} are read. The "
            "file is hostile; do not use it."
        )


def work_problem(config: Any, num_bytes: int) -> str | None:
    """Names a part of a configuration whose building takes more than the file justifies.

    Args:
        config: the parsed architecture.
        num_bytes: size of the architecture in the file.
    """
    calls, limit = _num_calls(config), _FREE_CALLS + num_bytes // _BYTES_PER_CALL
    if calls > limit:
        return f"{calls} layers and calls of layers, where its {num_bytes} bytes allow {limit}"
    for part in dicts_in(config):
        if _is_bidirectional(part) and any(map(_is_bidirectional, _within(part))):
            return "a Bidirectional layer within another, which Keras copies over and over"
        for key, value in part.items():
            problem = _number_problem(key, value)
            if problem:
                return problem
    return None


def weights_problem(config: Any, num_variables: int) -> str | None:
    """Tells whether the layers of a configuration have more weights than a file stores.

    Args:
        config: the parsed architecture, all of Keras' own layers.
        num_variables: number of variables in the file.
    """
    num_layers = sum(
        part.get("module") == "keras.layers"
        and _WITH_WEIGHTS.fullmatch(str(part.get("class_name"))) is not None
        for part in dicts_in(config)
    )
    if num_layers > num_variables:
        return f"{num_layers} layers with weights, where the file has {num_variables} variables"
    return None


def _num_calls(config: Any) -> int:
    calls = 0
    for part in dicts_in(config):
        calls += "class_name" in part and part.get("module") not in (None, *_SETTINGS_MODULES)
        nodes = part.get("inbound_nodes")
        calls += len(nodes) if isinstance(nodes, list) else 0
    return calls


def _is_bidirectional(part: dict[str, Any]) -> bool:
    return part.get("class_name") == "Bidirectional"


def _within(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return dicts_in(list(part.values()))


def _number_problem(key: str, value: Any) -> str | None:
    limit = _MAX_SHAPE_OR_SEED if key in _SHAPES_AND_SEEDS else _MAX_NUMBER
    if isinstance(value, int):
        limit = _MAX_OF_SETTING.get(key, limit)
    largest = max((abs(n) for n in _numbers(value)), default=0)
    return f"{key}={largest}; at most {limit} is read" if largest > limit else None


def _numbers(value: Any) -> Iterator[int]:
    """Yields the integers in a value and in the lists in it, not in dicts: these follow."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int):
        yield value
