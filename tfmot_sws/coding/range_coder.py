"""Codes many symbols at once with the range coder of `constriction`.

It gets small integers as counts. Integers and correctly rounded divisions give the same
probabilities on every machine, and so the same bytes.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


def frequencies(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scales counts to sum to about 65536 along the last axis, each at least 1.

    `constriction` takes float32, which holds such numbers and their sums exactly, however
    large and unequal the counts are.

    Args:
        counts: not negative, at most 2**46, shape (..., V), with a positive sum.

    Example:
        >>> frequencies(np.array([0, 1, 3])).tolist()
        [1, 16385, 49153]
    """
    # Of two columns, an addition is faster than a sum along an axis.
    is_pair = counts.shape[-1] == 2
    totals = counts[..., :1] + counts[..., 1:] if is_pair else counts.sum(-1, keepdims=True)
    return 1 + (counts << 16) // totals


class SymbolCoder(Protocol):
    """Interface that the models need of an encoder or a decoder."""

    def code(self, symbols: NDArray[np.int32], counts: NDArray[Any]) -> NDArray[np.int32]:
        """Writes or reads symbols, shape (M,), with probabilities proportional to `counts`.

        Args:
            symbols: numbers below V; a decoder uses only their shape.
            counts: 1 to 65537, of any type; shape (V,) for all or (M, V) for each symbol,
                V >= 2.
        """
        ...


class SymbolEncoder:
    """Writes symbols; `finish` gives the bytes.

    Example:
        >>> encoder = SymbolEncoder()
        >>> symbols = encoder.code(np.int32([0, 0, 1, 0]), np.array([9, 1]))
        >>> encoder.finish().hex()
        '10bb9fba'
    """

    def __init__(self) -> None:
        self._encoder = _package().stream.queue.RangeEncoder()

    def code(self, symbols: NDArray[np.int32], counts: NDArray[Any]) -> NDArray[np.int32]:
        """Writes the symbols and returns them."""
        self._encoder.encode(symbols, *_model(counts))
        return symbols

    def finish(self) -> bytes:
        """Returns the bytes: little-endian words of 32 bits, without the zeros at the end."""
        return self._encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class SymbolDecoder:
    """Reads the symbols back, given the same counts in the same order."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
        self._decoder = _package().stream.queue.RangeDecoder(words)

    def code(self, symbols: NDArray[np.int32], counts: NDArray[Any]) -> NDArray[np.int32]:
        """Returns as many symbols as `symbols` has; ignores its values."""
        if counts.ndim == 1:
            return self._decoder.decode(*_model(counts), symbols.size)
        return self._decoder.decode(*_model(counts))


def _model(counts: NDArray[Any]) -> tuple[object, ...]:
    """Returns the arguments that describe the model to `constriction`."""
    categorical = _package().stream.model.Categorical
    probabilities = np.asarray(counts, np.float32)
    if counts.ndim == 1:
        return (categorical(probabilities, perfect=False),)
    return categorical(perfect=False), probabilities


def _package() -> Any:
    """Imports `constriction`, which files of small tensors do without.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise ImportError(
            "The file has a large tensor, which the package constriction decodes. Install it "
            "with pip install constriction."
        ) from error
    return constriction
