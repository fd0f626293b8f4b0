"""Codes codebooks on a uniform grid: a step, and which integers from -7 to 7 it is taken by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.coding.arithmetic import BitCoder
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.mixing import Mixer
from tfmot_sws.coding.numbers import NumberCoder

# The non-zero values, ascending, shape (V,).
Values = NDArray[np.float32]

_MOST_INTEGER: Final = 7
# All integers that a value can be, ascending, as float32.
_INTEGERS: Final = np.array([k for k in range(-_MOST_INTEGER, 8) if k], np.float32)
# Of fewer values the list is as short.
_LEAST_VALUES: Final = 3
MOST_VALUES: Final = 2 * _MOST_INTEGER
# Estimated: a step takes two bytes, the integers two.
GRID_BYTES: Final = 4.0


def step_of(values: Values) -> np.float32 | None:
    """The step of a grid, of which integers from -7 to 7 give the values bit for bit.

    `None` if there is none, or if there are so few values that listing them is as short.

    Example:
        >>> step_of(np.float32([-0.75, -0.25, 0.5])), step_of(np.float32([0.1, 0.25, 0.5]))
        (np.float32(0.25), None)
    """
    if not _LEAST_VALUES <= values.size <= MOST_VALUES:
        return None
    # By which integer the greatest value could be, from 1 on.
    steps = np.max(np.abs(values)) / np.arange(1, _MOST_INTEGER + 1, dtype=np.float32)
    multiples = np.rint(values / steps[:, None]) * steps[:, None]
    fits = np.all(multiples == values, axis=1) & _allowed(steps)
    return steps[fits.argmax()] if fits.any() else None


def _allowed(steps: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which steps are positive normal numbers all of whose multiples are finite."""
    limits = np.finfo(np.float32)
    return (steps >= limits.tiny) & (steps <= limits.max / _MOST_INTEGER)


def code_grids(
    bits: BitCoder, numbers: NumberCoder, codebooks: Sequence[Values], count: int
) -> list[Values]:
    """Codes a number of codebooks that are grids, and returns them.

    Args:
        bits: a `BitEncoder` or a `BitDecoder`.
        numbers: of the same stream; codes the steps.
        codebooks: what is to be written; empty where they are read.
        count: how many there are.

    Raises:
        CompressedFileError: a step is not positive, or a multiple of it infinite.
    """
    if not count:
        return []
    steps = np.zeros(count, np.float32)
    if codebooks:
        steps[:] = [step_of(values) for values in codebooks]
    steps = numbers.code(steps)
    _check(steps)
    mixer = Mixer(3, initial_weight=30000, rate=8, prior=1)
    grids: list[Values] = []
    for number, step in enumerate(steps):
        numbers.spend(MOST_VALUES)
        multiples, before = _INTEGERS * step, 2
        present = np.isin(multiples, codebooks[number] if codebooks else [])
        for place, integer in enumerate(_INTEGERS.tolist()):
            contexts = (abs(int(integer)), place, 3 * place + before)
            before = mixer.code(bits, int(present[place]), contexts)
            present[place] = before
        grids.append(multiples[present])
    return grids


def _check(steps: Values) -> None:
    is_right = _allowed(steps)
    if not is_right.all():
        raise CompressedFileError(
            f"Steps of grids are {steps[~is_right]}, but only positive ones are allowed whose "
            "multiples are finite. The file is damaged; copy or download it again."
        )
