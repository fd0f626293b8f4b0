"""Compresses the text of the architecture, with samples of Keras configs known beforehand."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any, Final

from tfmot_sws.coding.arithmetic import BitDecoder, BitEncoder
from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.container import VERSION
from tfmot_sws.coding.deflate import deflate, inflate
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.predicted_json import PredictedJson

MAX_TEXT_BYTES: Final = 1 << 23
_DEFLATED, _PREDICTED = 0, 1
# A text may have _FREE_BYTES, and _MAX_RATIO more for each of its bytes in the file.
_FREE_BYTES: Final = 1 << 17
_MAX_RATIO: Final = 1 << 8


def encode_text(text: bytes) -> bytes:
    """Compresses the text: deflated, or as JSON of which much is predicted.

    Example:
        >>> text = b'{"module":"keras.layers","class_name":"Dense","config":{'
        >>> len(encode_text(text)) < 11
        True
    """
    deflated = bytes([_DEFLATED]) + deflate(text, known=shipped_sample())
    return min(deflated, _predicted(text) or deflated, key=len)


def _predicted(text: bytes) -> bytes | None:
    """The text as predicted JSON, or `None` if it is not a compact JSON object of a class."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        return None
    if _compact(value) != text:
        return None
    bits, literals = BitEncoder(), list[str]()
    try:
        PredictedJson(bits, _samples(), literals, is_reader=False).code(value)
    except CompressedFileError:
        # A reader would turn down so much work.
        return None
    coded, rest = bits.finish(), "\n".join(literals).encode()
    head = bytes([_PREDICTED]) + varint(len(coded))
    return head + coded + deflate(rest, known=shipped_sample())


def decode_text(data: bytes, version: int = VERSION) -> bytes:
    """Returns the text that `encode_text` was given.

    Args:
        data: the section of a file.
        version: of the format; version 1 knew deflate only.

    Raises:
        CompressedFileError: the data is damaged, or the text too long.
    """
    limit = min(MAX_TEXT_BYTES, _FREE_BYTES + _MAX_RATIO * len(data))
    if version == 1:
        return inflate(data, limit, known=shipped_sample())
    reader = ByteReader(data)
    method = reader.byte()
    if method == _DEFLATED:
        return inflate(reader.take(reader.remaining), limit, known=shipped_sample())
    if method != _PREDICTED:
        raise CompressedFileError(
            f"The architecture is coded by method {method}; 0 and 1 are known. The file is "
            "damaged; copy or download it again."
        )
    bits = BitDecoder(reader.take(reader.varint()))
    rest = inflate(reader.take(reader.remaining), limit, known=shipped_sample())
    try:
        literals = rest.decode().split("\n") if rest else []
        text = _compact(PredictedJson(bits, _samples(), literals, is_reader=True).code())
    except CompressedFileError:
        raise
    # What is no JSON, or JSON of another kind than its place asks for.
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CompressedFileError(
            f"The architecture is not readable ({type(error).__name__}). The file is damaged; "
            "copy or download it again."
        ) from error
    if literals or len(text) > limit:
        raise CompressedFileError(
            f"The architecture has {len(text)} bytes and {len(literals)} parts too many. The "
            "file is damaged or hostile; do not use it."
        )
    return text


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@functools.cache
def shipped_sample() -> bytes:
    """Reads the samples, which are part of the format and must never change."""
    return (importlib.resources.files(__package__) / "keras_configs.json").read_bytes()


def _samples() -> Any:
    return json.loads(shipped_sample())
