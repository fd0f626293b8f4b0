"""The architecture's text: deflate that starts out knowing how Keras writes configs."""

from __future__ import annotations

import functools
import importlib.resources
from typing import Final

from tfmot_sws.coding.deflate import deflate, inflate

MAX_TEXT_BYTES: Final = 1 << 23


def encode_text(text: bytes) -> bytes:
    """The text in few bytes.

    Example:
        >>> text = b'{"module":"keras.layers","class_name":"Dense","config":{'
        >>> len(encode_text(text)) < 10
        True
    """
    return deflate(text, known=shipped_sample())


def decode_text(data: bytes) -> bytes:
    """The text that `encode_text` was given.

    Raises:
        CompressedFileError: when the data cannot be such.
    """
    return inflate(data, MAX_TEXT_BYTES, known=shipped_sample())


@functools.cache
def shipped_sample() -> bytes:
    """Configs of common models and layers; part of the format, never to be changed."""
    return (importlib.resources.files(__package__) / "keras_configs.json").read_bytes()
