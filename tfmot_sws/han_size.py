"""Computes the size of a clustered tensor as Deep Compression counts it."""

from __future__ import annotations

import heapq
import itertools
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfmot_sws.models.codebook import ClusteredTensor

_FLOAT_BITS: Final = 32
_MAX_INDEX_BITS: Final = 12


def han_bits(tensor: ClusteredTensor) -> int:
    """Returns the size in bits of a tensor in the format of Deep Compression.

    Each non-zero entry is stored as a gap, the number of zeros since the last one, and a
    codebook index. Gaps are below 2^b; a stored zero splits a longer gap. Gaps and indices
    are Huffman coded. The size includes the codebook (32 bits per value) and the code
    lengths (8 bits per symbol). b is chosen to give the smallest size.

    References:
        Han, Mao, Dally, "Deep Compression", ICLR 2016, sections 2 to 4.
    """
    zero = np.flatnonzero(tensor.codebook == 0)
    zero_index = int(zero[0]) if zero.size else -1
    flat = tensor.indices.reshape(-1)
    places = np.flatnonzero(flat != zero_index)
    gaps = np.diff(places, prepend=-1) - 1
    counts = np.bincount(flat[places], minlength=tensor.codebook.size)
    bits = (_bits_with_gaps(gaps, counts, b) for b in range(1, _MAX_INDEX_BITS + 1))
    return min(bits) + _FLOAT_BITS * tensor.codebook.size


def _bits_with_gaps(gaps: NDArray[np.intp], counts: NDArray[np.intp], index_bits: int) -> int:
    """Returns the size of gaps, values and Huffman tables for gaps below 2^index_bits."""
    span = 1 << index_bits
    fillers = int((gaps // span).sum())
    gap_counts = np.bincount(gaps % span, minlength=span)
    gap_counts[span - 1] += fillers
    value_counts = np.append(counts, fillers)
    tables = 8 * int(np.count_nonzero(gap_counts) + np.count_nonzero(value_counts))
    return huffman_bits(gap_counts) + huffman_bits(value_counts) + tables


def huffman_bits(counts: ArrayLike) -> int:
    """Returns the length in bits of a Huffman-coded message with these symbol counts.

    A message with one distinct symbol takes one bit per symbol.

    Example:
        >>> huffman_bits([4, 2, 1, 1])
        14
    """
    heap = [int(count) for count in np.asarray(counts).reshape(-1) if count > 0]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    # Every merge of two trees adds one bit to each symbol in them.
    for _ in itertools.repeat(None, len(heap) - 1):
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total
