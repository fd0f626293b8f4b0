"""Raw deflate streams, with a limit on what they unfold to."""

from __future__ import annotations

import zlib
from typing import Final

from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.errors import CompressedFileError

_RAW: Final = -15
_THOROUGH_UP_TO: Final = 1 << 20
_STORED, _DEFLATED = 0, 1


def deflate(data: bytes, known: bytes = b"") -> bytes:
    """A raw deflate stream (RFC 1951).

    Args:
        data: what to pack.
        known: text that writer and reader have beforehand; its last 32 KiB count.
    """
    # The mantissas of many floats do not shrink, however long one tries.
    level = 9 if len(data) <= _THOROUGH_UP_TO else 1
    packer = zlib.compressobj(level, zlib.DEFLATED, _RAW, 9, zdict=known)
    return packer.compress(data) + packer.flush()


def inflate(data: bytes, max_size: int, known: bytes = b"") -> bytes:
    """What `deflate` was given.

    Raises:
        CompressedFileError: when the stream is damaged, or unfolds to over `max_size`.
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
    """The data with its length in front, deflated where that is shorter.

    Example:
        >>> pack(b"abc").hex(), len(pack(bytes(1000))) < 20
        ('06616263', True)
    """
    packed = deflate(data)
    if len(packed) < len(data):
        return varint(len(packed) << 1 | _DEFLATED) + packed
    return varint(len(data) << 1 | _STORED) + data


def unpack(reader: ByteReader, max_size: int) -> bytes:
    """Reads what `pack` wrote.

    Raises:
        CompressedFileError: when that is damaged, or unfolds to over `max_size` bytes.
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
