"""The codebook "uniform": means k * Delta on a grid, of which only Delta is trained.

An integer of 4 bits and one step hold such a codebook without loss. Slots keep their integers
throughout, so that a training on the grid needs neither a phase of its own nor more state.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.arguments import check_choice

CODEBOOKS: Final = ("free", "uniform")
# What a signed integer of 4 bits holds on both sides of zero.
MOST_INTEGER: Final = 7
MOST_POINTS: Final = 2 * MOST_INTEGER + 1
# An integer takes three of the 24 bits that a float32 has, so that k * Delta is exact.
STEP_BITS: Final = 21


def check_codebook(codebook: str, num_components: int | None) -> None:
    """Raises `ValueError` for an unknown codebook, or one that cannot hold so many values."""
    check_choice("codebook", codebook, CODEBOOKS)
    if codebook == "uniform" and num_components is not None and num_components > MOST_POINTS:
        raise ValueError(
            f"codebook='uniform' holds at most {MOST_POINTS} values, the integers from "
            f"-{MOST_INTEGER} to {MOST_INTEGER} times a step; received "
            f"num_components={num_components}. Leave num_components out, or take "
            "codebook='free'."
        )


def grid_integers(num_components: int) -> NDArray[np.float32]:
    """The integers of the slots behind that of zero, ascending, shape (K - 1,).

    Example:
        >>> grid_integers(6).tolist()
        [-2.0, -1.0, 1.0, 2.0, 3.0]
    """
    others = num_components - 1
    below = others // 2
    integers = [*range(-below, 0), *range(1, others - below + 1)]
    return np.array(integers, np.float32)


def reach_of(means: NDArray[np.floating], integers: NDArray[np.floating], most: float) -> float:
    """What the integer `most` stands for on the grid that fits means best, in least squares.

    Args:
        means: shape (M,), M >= 1.
        integers: not zero, shape (M,).
        most: the greatest integer of the grid.
    """
    wide = integers.astype(np.float64)
    return most * float(wide @ means / (wide @ wide))
