"""Weights before and after as counts on a grid: all that a picture needs of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.visualization.weights import Array

_MARGIN = 1.1


@dataclasses.dataclass(frozen=True)
class Movement:
    """Joint counts of weights before and after, on an even square grid about zero.

    It is all that a picture needs, however many weights there are.

    Args:
        counts: shape (B, B), number of weights by bin before (rows) and after (columns).
        reach_before: the bins before cover [-reach, reach], in units of the weights.
        reach_after: likewise after.
    """

    counts: NDArray[np.uint32]
    reach_before: float
    reach_after: float

    @classmethod
    def count(
        cls, before: Array, after: Array, reaches: tuple[float, float], bins: int
    ) -> Movement:
        """Counts weights; those beyond the reach go to the outermost bins.

        Example:
            >>> pair = np.float32([0.1, -0.2]), np.float32([0.0, -0.3])
            >>> int(Movement.count(*pair, reaches=(0.4, 0.4), bins=3).counts[1, 1])
            1
        """
        rows, columns = (
            _bin(values, reach, bins)
            for values, reach in zip((before, after), reaches, strict=True)
        )
        rows *= bins
        rows += columns
        counts = np.bincount(rows, minlength=bins * bins).reshape(bins, bins)
        return cls(counts.astype(np.uint32), *reaches)

    @property
    def edges_before(self) -> NDArray[np.float64]:
        """Edges of the bins before, shape (B + 1,)."""
        return np.linspace(-self.reach_before, self.reach_before, len(self.counts) + 1)

    @property
    def edges_after(self) -> NDArray[np.float64]:
        """Edges of the bins after, shape (B + 1,)."""
        return np.linspace(-self.reach_after, self.reach_after, len(self.counts) + 1)


def reach_of(values: Array) -> float:
    """How far a picture of these weights reaches to both sides of zero."""
    return _MARGIN * float(np.abs(values).max(initial=0.0)) or 1.0


def _bin(values: Array, reach: float, bins: int) -> NDArray[np.intp]:
    """The bin of each value on an even grid over [-reach, reach], ends clipped."""
    place = (values + np.float32(reach)) * np.float32(bins / (2 * reach))
    return np.clip(place, 0, bins - 1).astype(np.intp)
