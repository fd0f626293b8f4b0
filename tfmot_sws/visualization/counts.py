"""Counts pairs of weights before and after training on a grid, for pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.visualization.weights import Array

_MARGIN = 1.1
# Bins along each of two axes: more than a screen has pixels, and 64 MiB.
MAX_BINS = 1 << 12


@dataclasses.dataclass(frozen=True)
class Movement:
    """Joint counts of weights before and after, on an even square grid around zero.

    A picture needs no other data, so its memory does not depend on the number of weights.

    Args:
        counts: shape (B, B), number of weights by bin before (rows) and after (columns).
        limit_before: the bins before cover [-limit_before, limit_before], in units of the
            weights.
        limit_after: the same for the bins after.
    """

    counts: NDArray[np.uint32]
    limit_before: float
    limit_after: float

    @classmethod
    def count(
        cls, before: Array, after: Array, limits: tuple[float, float], bins: int
    ) -> Movement:
        """Counts weights; those beyond the limits go to the outermost bins.

        Example:
            >>> pair = np.float32([0.1, -0.2]), np.float32([0.0, -0.3])
            >>> int(Movement.count(*pair, limits=(0.4, 0.4), bins=3).counts[1, 1])
            1
        """
        rows, columns = (
            _bin(values, limit, bins)
            for values, limit in zip((before, after), limits, strict=True)
        )
        rows *= bins
        rows += columns
        counts = np.bincount(rows, minlength=bins * bins).reshape(bins, bins)
        return cls(counts.astype(np.uint32), *limits)

    @property
    def edges_before(self) -> NDArray[np.float64]:
        """Edges of the bins before, shape (B + 1,)."""
        return np.linspace(-self.limit_before, self.limit_before, len(self.counts) + 1)

    @property
    def edges_after(self) -> NDArray[np.float64]:
        """Edges of the bins after, shape (B + 1,)."""
        return np.linspace(-self.limit_after, self.limit_after, len(self.counts) + 1)


def axis_limit(values: Array) -> float:
    """Returns the limit, on both sides of zero, of an axis that shows these weights."""
    return _MARGIN * float(np.abs(values).max(initial=0.0)) or 1.0


def _bin(values: Array, limit: float, bins: int) -> NDArray[np.intp]:
    """Returns the bin of each value on an even grid over [-limit, limit], clipped."""
    position = (values + np.float32(limit)) * np.float32(bins / (2 * limit))
    return np.clip(position, 0, bins - 1).astype(np.intp)
