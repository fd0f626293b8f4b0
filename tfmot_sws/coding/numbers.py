"""Codes floats of few significant bits: scales, offsets, the values of codebooks.

Deflate sees bytes, and a number rounded to five bits crosses them. Here each number is a
sign, an exponent and as many bits of mantissa as any number of its tensor needs. Signs and
exponents are predicted from what came before; of the mantissa only the first bits are worth
a prediction.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.arithmetic import PROBABILITY_ONE, BitCoder
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.mixing import Mixer

MAX_STEPS: Final = 1 << 19
_MANTISSA_BITS: Final = 23
_MAX_EXPONENT: Final = 254
_PREDICTED_BITS: Final = 3
# Larger than any number that is joined to others in a context.
_SPAN: Final = 512
_HEADER_BITS: Final = 9


@dataclasses.dataclass(frozen=True)
class Precision:
    """What all numbers of a tensor have in common.

    Args:
        top: their largest exponent, biased as in float32; 0 if all are zero.
        length: bits of mantissa that a number has at most.
        span: if it is not 0, all are multiples of the power of two this far below `top`, so
            that small numbers need fewer bits.
    """

    top: int
    length: int
    span: int

    def num_bits(self, distance: int) -> int:
        """Bits of mantissa of a number whose exponent is `distance` below the top."""
        return min(self.length, self.span - distance) if self.span else self.length


def precision_of(values: NDArray[Any]) -> Precision | None:
    """The precision of a tensor, or `None` if it holds what this coder does not take.

    That is anything but normal float32 numbers and +0.0.

    Example:
        >>> precision_of(np.float32([0.75, 0, -0.125]))
        Precision(top=126, length=1, span=2)
    """
    bits = np.asarray(values, np.float32).reshape(-1).view(np.uint32)
    bits = bits[bits != 0]
    exponents = (bits >> _MANTISSA_BITS & 255).astype(np.int64)
    if np.any((exponents == 0) | (exponents > _MAX_EXPONENT)):
        return None
    if not bits.size:
        return Precision(0, 0, 0)
    mantissas = (bits & (1 << _MANTISSA_BITS) - 1 | 1 << _MANTISSA_BITS).astype(np.int64)
    trailing = np.log2(mantissas & -mantissas).astype(np.int64)
    lengths = _MANTISSA_BITS - trailing
    top, length = int(exponents.max()), int(lengths.max())
    grid = int((exponents - lengths).min())
    is_grid = np.any(exponents - grid < length) and top - grid < _SPAN
    return Precision(top, length, top - grid if is_grid else 0)


def num_steps(values: NDArray[Any], precision: Precision) -> int:
    """The steps that coding a tensor takes at most."""
    bits = np.asarray(values, np.float32).reshape(-1).view(np.uint32)
    exponents = (bits[bits != 0] >> _MANTISSA_BITS & 255).astype(np.int64)
    distances = int((precision.top - exponents).sum())
    return 3 * _HEADER_BITS + bits.size + exponents.size * (2 + precision.length) + distances


class NumberCoder:
    """Codes tensors of float32 one after the other; writing and reading run the same steps.

    Args:
        coder: a `BitEncoder` or a `BitDecoder`.

    Example:
        >>> from tfmot_sws.coding.arithmetic import BitDecoder, BitEncoder
        >>> encoder, values = BitEncoder(), np.float32([0.75, 0, -0.125, 0.5])
        >>> _ = NumberCoder(encoder).code(values)
        >>> data = encoder.finish()
        >>> NumberCoder(BitDecoder(data)).code(np.zeros(4, np.float32)).tolist()
        [0.75, 0.0, -0.125, 0.5]
    """

    def __init__(self, coder: BitCoder) -> None:
        self.steps_left = MAX_STEPS
        self._coder = coder
        self._header = Mixer(3, initial_weight=30000, rate=8, prior=1)
        self._zero = Mixer(3)
        self._sign = Mixer(4)
        self._exponent = Mixer(5, initial_weight=16000, rate=8)
        self._mantissa = Mixer(3, initial_weight=20000)
        self._before = Precision(0, 0, 0)
        self._distances: list[int] = []
        self._num_coded = 0

    def code(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Codes one tensor, shape (M,), and returns it; a decoder uses only its size.

        Raises:
            CompressedFileError: it takes more than `steps_left` steps, or no such number is.
        """
        precision = precision_of(values)
        if precision is None:
            raise ValueError("Only normal float32 numbers and +0.0 can be coded.")
        precision = self._code_precision(precision)
        coded = np.zeros(values.size, np.uint32)
        if precision.top:
            self._code_numbers(values.view(np.uint32).tolist(), coded, precision)
        return coded.view(np.float32)

    def _code_precision(self, precision: Precision) -> Precision:
        fields = []
        pairs = zip(
            dataclasses.astuple(precision), dataclasses.astuple(self._before), strict=True
        )
        for field, (number, before) in enumerate(pairs):
            node = 1
            for level in reversed(range(_HEADER_BITS)):
                kind = field * _SPAN + node
                contexts = (field, kind, kind * _SPAN + before)
                node = 2 * node + self._header.code(self._coder, number >> level & 1, contexts)
            fields.append(node - (1 << _HEADER_BITS))
        self._before = found = Precision(*fields)
        self.spend(3 * _HEADER_BITS)
        if found.top > _MAX_EXPONENT or found.length > _MANTISSA_BITS:
            raise CompressedFileError(
                f"Numbers have exponent {found.top} and {found.length} bits of mantissa, which "
                "float32 does not. The file is damaged; copy or download it again."
            )
        return found

    def _code_numbers(
        self, bits: list[int], coded: NDArray[np.uint32], precision: Precision
    ) -> None:
        beside = self._distances if len(self._distances) == len(bits) else [0] * len(bits)
        grid, tensor = int(precision.span > 0), self._num_coded
        distances = []
        last, last_sign, last_zero = 0, 2, 2
        for place, number in enumerate(bits):
            self.spend(1)
            contexts = (grid, 2 + tensor, (2 + tensor) * 4 + last_zero)
            last_zero = 1 - self._zero.code(self._coder, int(number != 0), contexts)
            if last_zero:
                distances.append(0)
                continue
            last_sign = self._code_sign(number >> 31, grid, last_sign, place)
            last = self._code_distance(
                precision.top - (number >> _MANTISSA_BITS & 255),
                precision,
                (last, beside[place]),
            )
            distances.append(last + 1)
            mantissa = self._code_mantissa(number, precision, last)
            exponent = precision.top - last
            coded[place] = last_sign << 31 | exponent << _MANTISSA_BITS | mantissa
        self._distances = distances
        self._num_coded += 1

    def _code_sign(self, sign: int, grid: int, last: int, place: int) -> int:
        tensor = self._num_coded
        contexts = (grid, 3 * grid + last, tensor, 3 * tensor + last)
        return self._sign.code(self._coder, sign, contexts)

    def _code_distance(
        self, distance: int, precision: Precision, known: tuple[int, int]
    ) -> int:
        """Codes how far below the top an exponent is, as so many ones and a zero."""
        grid, (last, beside) = int(precision.span > 0), known
        # The last distance at which there is a number.
        limit = min(precision.top - 1, precision.span or _MAX_EXPONENT)
        found = 0
        while found < limit:
            self.spend(1)
            level = 2 * found + grid
            contexts = (
                level,
                self._num_coded * _SPAN + level,
                last * _SPAN + level,
                beside * _SPAN + level,
                (self._num_coded * _SPAN + last) * _SPAN + level,
            )
            if not self._exponent.code(self._coder, int(found < distance), contexts):
                break
            found += 1
        return found

    def _code_mantissa(self, number: int, precision: Precision, distance: int) -> int:
        num_bits = precision.num_bits(distance)
        self.spend(num_bits)
        grid, node = int(precision.span > 0), 1
        for position in range(1, num_bits + 1):
            bit = number >> _MANTISSA_BITS - position & 1
            if position > _PREDICTED_BITS:
                bit = self._coder.code(bit, PROBABILITY_ONE // 2)
            else:
                contexts = (
                    2 * node + grid,
                    (distance * 2 + grid) * 16 + node,
                    (self._num_coded * 2 + grid) * 16 + node,
                )
                bit = self._mantissa.code(self._coder, bit, contexts)
            node = 2 * node + bit
        return (node - (1 << num_bits)) << _MANTISSA_BITS - num_bits

    def spend(self, steps: int) -> None:
        """Counts steps of the stream.

        Raises:
            CompressedFileError: there are more than any writer takes.
        """
        self.steps_left -= steps
        if self.steps_left < 0:
            raise CompressedFileError(
                f"More than {MAX_STEPS} bits of numbers are coded one by one, which no writer "
                "does. The file is damaged or hostile; do not use it."
            )
