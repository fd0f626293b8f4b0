"""Packs bytes as raw deflate streams, and unpacks them up to a limit on their size."""

from __future__ import annotations

import zlib
from typing import Final

from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.errors import CompressedFileError

_RAW: Final = -15
_THOROUGH_UP_TO: Final = 1 << 20
_STORED, _DEFLATED = 0, 1


def deflate(data: bytes, known: bytes = b"") -> bytes:
    """Compresses to a raw deflate stream (RFC 1951).

    Args:
        data: the bytes to compress.
        known: text that writer and reader have beforehand; its last 32 KiB count.
    """
    # Large data is mostly mantissas of floats, which no level compresses, so the fast
    # level serves.
    level = 9 if len(data) <= _THOROUGH_UP_TO else 1
    packer = zlib.compressobj(level, zlib.DEFLATED, _RAW, 9, zdict=known)
    return packer.compress(data) + packer.flush()


def inflate(data: bytes, max_size: int, known: bytes = b"") -> bytes:
    """Returns the bytes that `deflate` was given.

    Raises:
        CompressedFileError: the stream is damaged, or its data longer than `max_size`.
    """
    unpacker = zlib.decompressobj(_RAW, zdict=known)
    try:
        unpacked = unpacker.decompress(data, max_size + 1)
    except zlib.error as error:
        raise CompressedFileError(
            f"A deflated part cannot be unpacked ({error}). The file is damaged; copy or "
            "download it again."
        ) from error
    if len(unpacked) > max_size or not unpacker.eof or unpacker.unused_data:
        raise CompressedFileError(
            f"A deflated part does not end as declared, or unfolds to more than {max_size} "
            "bytes. The file is damaged or hostile; do not use it."
        )
    return unpacked


def pack(data: bytes) -> bytes:
    """Puts the length in front of the data, and deflates the data if that is shorter.

    Example:
        >>> pack(b"abc").hex(), len(pack(bytes(1000))) < 20
        ('06616263', True)
    """
    packed = deflate(data)
    if len(packed) < len(data):
        return varint(len(packed) << 1 | _DEFLATED) + packed
    return varint(len(data) << 1 | _STORED) + data


def unpack(reader: ByteReader, max_size: int) -> bytes:
    """Reads the data that `pack` was given.

    Raises:
        CompressedFileError: the data is damaged, or longer than `max_size` bytes.
    """
    size, method = divmod(reader.varint(), 2)
    if method == _DEFLATED:
        return inflate(reader.take(size), max_size)
    if size > max_size:
        raise CompressedFileError(
            f"A part of {size} bytes where at most {max_size} were expected. The file is "
            "damaged or hostile; do not use it."
        )
    return reader.take(size)
