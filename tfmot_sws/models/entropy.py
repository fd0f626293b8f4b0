"""Entropy of counts, and the limit of a codebook's size: numbers that need NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

# More distinct values than this and a tensor counts as not clustered: indices then
# need more than a byte, which neither the mixture nor a mobile format offers.
MAX_CODEBOOK_SIZE = 256


def entropy_bits(counts: ArrayLike) -> float:
    """Entropy of a histogram in bits per item; 0 for an empty one.

    Example:
        >>> entropy_bits([2, 2])
        1.0
    """
    counts = np.asarray(counts, np.float64)
    counts = counts[counts > 0]
    if not counts.size:
        return 0.0
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0
