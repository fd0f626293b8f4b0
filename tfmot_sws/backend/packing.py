"""Packs small tensors into one, because each tensor costs some microseconds per step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any


class Packing:
    """Places tensors of given shapes in flat ones: small ones together, others alone.

    Args:
        shapes: of the tensors, in their order.
        below: a tensor of fewer entries is small.

    Attributes:
        sizes: of the flat tensors.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], below: int) -> None:
        self._shapes = [tuple(shape) for shape in shapes]
        entries = [math.prod(shape) for shape in self._shapes]
        small = [i for i, size in enumerate(entries) if size < below]
        others = [[i] for i, size in enumerate(entries) if size >= below]
        self._groups = [small, *others] if small else others
        self._entries = [[entries[i] for i in group] for group in self._groups]
        self.sizes = [sum(members) for members in self._entries]

    def pack(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Flat tensors, of `sizes`."""
        flat = [ops.reshape(tensor, (-1,)) for tensor in tensors]
        parts = [[flat[i] for i in group] for group in self._groups]
        return [part[0] if len(part) == 1 else ops.concatenate(part) for part in parts]

    def unpack(self, flat: Sequence[Tensor]) -> list[Tensor]:
        """The tensors, in their order and with their shapes; the inverse of `pack`."""
        tensors: dict[int, Tensor] = {}
        for group, entries, joined in zip(self._groups, self._entries, flat, strict=True):
            ends = list(itertools.accumulate(entries))[:-1]
            parts = ops.split(joined, ends) if ends else [joined]
            for i, part in zip(group, parts, strict=True):
                tensors[i] = ops.reshape(part, self._shapes[i])
        return [tensors[i] for i in range(len(self._shapes))]
