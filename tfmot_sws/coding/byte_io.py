"""Writes numbers in few bytes, and reads byte strings with checks of their length."""

from __future__ import annotations

from tfmot_sws.coding.errors import CompressedFileError

_MAX_VARINT_BYTES = 9


def varint(number: int) -> bytes:
    """Encodes 0 to 2**63 - 1, seven bits a byte, lowest first; the last byte is < 128.

    Example:
        >>> varint(300).hex()
        'ac02'
    """
    if not 0 <= number < 1 << 63:
        raise ValueError(f"A varint holds 0 to 2**63 - 1; received {number}.")
    parts = bytearray()
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


class ByteReader:
    r"""Reads a byte string from front to back.

    Raises:
        CompressedFileError: from every method, if too few bytes are left.

    Example:
        >>> reader = ByteReader(bytes([0xAC, 0x02, 7, 8]))
        >>> reader.varint(), reader.take(2), reader.remaining
        (300, b'\x07\x08', 0)
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        """Number of bytes not read yet."""
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        """Returns the next `size` bytes."""
        if size > self.remaining:
            raise CompressedFileError(
                f"The file is cut short: {size} bytes were expected at one place, "
                f"{self.remaining} are left. Copy or download the file again."
            )
        self._position += size
        return self._data[self._position - size : self._position]

    def byte(self) -> int:
        """Returns the next byte as a number."""
        return self.take(1)[0]

    def varint(self) -> int:
        """Returns the next number written by `varint`."""
        number = 0
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            byte = self.byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise CompressedFileError(
            f"A number is longer than {_MAX_VARINT_BYTES} bytes. The file is damaged; "
            "copy or download it again."
        )
