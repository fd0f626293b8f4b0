"""Compresses the text of the architecture, with samples of Keras configs as dictionary."""

from __future__ import annotations

import functools
import importlib.resources
from typing import Final

from tfmot_sws.coding.deflate import deflate, inflate

MAX_TEXT_BYTES: Final = 1 << 23


def encode_text(text: bytes) -> bytes:
    """Compresses the text.

    Example:
        >>> text = b'{"module":"keras.layers","class_name":"Dense","config":{'
        >>> len(encode_text(text)) < 10
        True
    """
    return deflate(text, known=shipped_sample())


def decode_text(data: bytes) -> bytes:
    """Returns the text that `encode_text` was given.

    Raises:
        CompressedFileError: the data is damaged, or the text too long.
    """
    return inflate(data, MAX_TEXT_BYTES, known=shipped_sample())


@functools.cache
def shipped_sample() -> bytes:
    """Reads the preset dictionary, which is part of the format and must never change."""
    return (importlib.resources.files(__package__) / "keras_configs.json").read_bytes()
