"""Frames a `.sws` file: magic, version, and sections with checksums.

See `docs/format.md` for the whole format.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable, Mapping

from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.whole_file import PathOrFile, write_whole

MAGIC = b"SWS"
# Written are files of the last version, read are those of all. There is no 3: it is one bit
# away from 1 and 2, so that a flipped bit would make a file one of them.
VERSION = 4
_READABLE = (1, 2, VERSION)
_CHECKSUM_BYTES = 4


class Section(enum.IntEnum):
    """Sections of a file, in the order in which they are written."""

    ARCHITECTURE = 0
    TENSORS = 1
    INDICES = 2


def write_sections(target: PathOrFile, parts: Mapping[Section, bytes]) -> None:
    """Writes a file; a file already there stays whole until the new one is complete."""
    write_whole(target, frame(parts))


def frame(parts: Mapping[Section, bytes]) -> Iterable[bytes]:
    """Yields the bytes of a file in pieces, without its empty sections."""
    present = [section for section in Section if parts.get(section)]
    yield MAGIC + bytes([VERSION, sum(1 << section for section in present)])
    for section in present:
        payload = parts[section]
        yield varint(len(payload))
        yield payload
        yield _checksum(section, payload)


def version_of(data: bytes) -> int:
    """The version of the format of a file, which `parse_sections` has checked."""
    return data[len(MAGIC)]


def parse_sections(data: bytes) -> dict[Section, bytes]:
    """Splits a file into its sections, and checks each of them.

    Raises:
        CompressedFileError: the magic, the version, a length or a checksum is wrong, a
            section is unknown, or bytes follow the last one.
    """
    reader = ByteReader(data)
    if data[: len(MAGIC)] != MAGIC:
        raise CompressedFileError(
            f"Not a compressed model: the file begins with {data[:3]!r}, expected "
            f"{MAGIC!r}. Pass a file written by save_compressed."
        )
    reader.take(len(MAGIC))
    version = reader.byte()
    if version not in _READABLE:
        raise CompressedFileError(
            f"The file is of format version {version}; this program reads versions "
            f"{_READABLE}. Read it with the release of tfmot_sws that wrote it."
        )
    present = reader.byte()
    parts = {s: _payload(reader, s) for s in Section if present >> s & 1}
    if present >> len(Section) or reader.remaining:
        raise CompressedFileError(
            f"There are unknown sections ({present:#b}), or {reader.remaining} "
            "bytes after the last one. The file is damaged; copy or download it again."
        )
    return parts


def _payload(reader: ByteReader, section: Section) -> bytes:
    payload = reader.take(reader.varint())
    if reader.take(_CHECKSUM_BYTES) != _checksum(section, payload):
        raise CompressedFileError(
            f"The checksum of section {section.name} is wrong. The file is damaged; copy "
            "or download it again."
        )
    return payload


def _checksum(section: Section, payload: bytes) -> bytes:
    return zlib.crc32(payload, section.value).to_bytes(_CHECKSUM_BYTES, "little")
