"""Codes bits arithmetically, in integers only, so every machine agrees on every byte.

`BitEncoder` and `BitDecoder` share the method `code`, so that the same code models both
writing and reading: the encoder returns the bit that it is given, and the decoder ignores
that bit and returns the one that it reads.
"""

from __future__ import annotations

from typing import Protocol

# Probabilities are integers in 1 .. PROBABILITY_ONE - 1.
PROBABILITY_BITS = 16
PROBABILITY_ONE = 1 << PROBABILITY_BITS

_WINDOW = 48
_TOP = (1 << _WINDOW) - 1
_BYTE_SHIFT = _WINDOW - 8


class BitCoder(Protocol):
    """Interface that the models need of an encoder or a decoder."""

    def code(self, bit: int, probability: int) -> int:
        """Writes or reads one bit that is 1 with probability `probability` / 65536."""
        ...


class BitEncoder:
    """Writes bits; `finish` gives the bytes.

    Example:
        >>> encoder = BitEncoder()
        >>> bits = [encoder.code(bit, 6554) for bit in (0, 0, 1, 0)]
        >>> encoder.finish().hex()
        '33'
    """

    def __init__(self) -> None:
        self._low, self._high = 0, _TOP
        self._bytes = bytearray()

    def code(self, bit: int, probability: int) -> int:
        """Narrows the interval to the part of `bit` and appends the bytes that are final."""
        low, high = self._low, self._high
        middle = low + ((high - low) >> PROBABILITY_BITS) * probability
        if bit:
            high = middle
        else:
            low = middle + 1
        while not (low ^ high) >> _BYTE_SHIFT:
            self._bytes.append(low >> _BYTE_SHIFT)
            low = (low << 8) & _TOP
            high = ((high << 8) & _TOP) | 0xFF
        self._low, self._high = low, high
        return bit

    def __len__(self) -> int:
        """Number of bytes that are final so far."""
        return len(self._bytes)

    def finish(self) -> bytes:
        """Returns the fewest bytes that identify the interval; the decoder pads with zeros."""
        for kept in range(0, _WINDOW + 8, 8):
            unit = 1 << (_WINDOW - kept)
            value = -(-self._low // unit) * unit
            if value <= self._high:
                break
        tail = value.to_bytes(_WINDOW // 8, "big")[: kept // 8]
        return bytes(self._bytes + tail).rstrip(b"\0")


class BitDecoder:
    """Reads the bits back, given the same probabilities in the same order."""

    def __init__(self, data: bytes) -> None:
        self._low, self._high = 0, _TOP
        self._data = iter(data)
        self._value = 0
        for _ in range(_WINDOW // 8):
            self._value = self._value << 8 | next(self._data, 0)

    def code(self, bit: int, probability: int) -> int:
        """Returns the next bit; ignores the first argument."""
        low, high = self._low, self._high
        middle = low + ((high - low) >> PROBABILITY_BITS) * probability
        bit = int(self._value <= middle)
        if bit:
            high = middle
        else:
            low = middle + 1
        while not (low ^ high) >> _BYTE_SHIFT:
            low = (low << 8) & _TOP
            high = ((high << 8) & _TOP) | 0xFF
            self._value = ((self._value << 8) & _TOP) | next(self._data, 0)
        self._low, self._high = low, high
        return bit
