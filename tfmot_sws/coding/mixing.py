"""Predicts bits by logistic mixing of adaptive counters, in integers only.

Each context of a bit has a counter: an estimate of P(bit = 1) that follows the bits seen
in that context. A new counter starts at the estimate of the first, broadest context. The
mixer adds the log odds by which the other counters differ from the broadest one, with
learned weights. So "this output has many non-zeros" and "this input has few" both count.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Final

import numpy as np

from tfmot_sws.coding.arithmetic import PROBABILITY_BITS, PROBABILITY_ONE, BitCoder

# Log odds are integers in units of 1/256 nat, clipped to +-11 nats.
STRETCH_LIMIT: Final = 11 * 256 - 1
# exp(1/256) in units of 2**-64. The tables use no other transcendental number, so all
# machines compute the same ones.
_EXP_STEP: Final = 18518942588666869714

_COUNTER_BITS: Final = 22
_COUNTER_ONE: Final = 1 << _COUNTER_BITS
_TO_PROBABILITY: Final = _COUNTER_BITS - PROBABILITY_BITS
_WEIGHT_ONE: Final = 1 << 16
# After this many bits a counter averages with a fixed rate instead of an ever smaller one.
_MAX_COUNT: Final = 1023


@functools.cache
def squash_table() -> list[int]:
    """Returns P(bit = 1) in units of 2**-16, for log odds -STRETCH_LIMIT .. STRETCH_LIMIT."""
    upper, odds = [], 1 << 64
    for _ in range(STRETCH_LIMIT + 1):
        upper.append((odds << PROBABILITY_BITS) // (odds + (1 << 64)))
        odds = odds * _EXP_STEP >> 64
    return [PROBABILITY_ONE - p for p in reversed(upper[1:])] + upper


@functools.cache
def stretch_table() -> list[int]:
    """Returns log odds in units of 1/256 nat, for P(bit = 1) = 0 .. 65535 over 65536."""
    table = np.searchsorted(squash_table(), np.arange(PROBABILITY_ONE)) - STRETCH_LIMIT
    return np.minimum(table, STRETCH_LIMIT).tolist()


class Mixer:
    """Codes bits of one kind, each in several contexts at once.

    Args:
        num_contexts: number of contexts of each bit, broadest first, at least 1.
        initial_weight: first weight of each context but the broadest, in units of
            1/65536; 65536 suits independent contexts, less suits overlapping ones.
        rate: learning rate of the weights, in units of 1/1024.
        prior: number of bits that the first estimate of a new context counts as.
    """

    def __init__(
        self,
        num_contexts: int,
        *,
        initial_weight: int = 24000,
        rate: int = 4,
        prior: int = 3,
    ) -> None:
        self._weights = [_WEIGHT_ONE] + [initial_weight] * (num_contexts - 1)
        self._rate = rate
        self._counters: list[dict[int, list[int]]] = [{} for _ in self._weights]
        self._overall = [_COUNTER_ONE // 2, 0]
        self._stretch, self._squash = stretch_table(), squash_table()
        counts = range(_MAX_COUNT + 1)
        self._steps = [2 * _WEIGHT_ONE // (2 * (n + prior) + 1) for n in counts]

    def forget(self) -> None:
        """Drops the counters of all contexts; keeps the weights and the overall counter."""
        for counters in self._counters:
            counters.clear()

    def code(self, coder: BitCoder, bit: int, contexts: Sequence[int]) -> int:
        """Codes one bit; each context is a number, and each position has its own counters."""
        stretch = self._stretch
        active = self._active(contexts)
        base = stretch[active[0][0] >> _TO_PROBABILITY]
        inputs = [stretch[counter[0] >> _TO_PROBABILITY] - base for counter in active]
        inputs[0] = base
        total = sum(map(operator.mul, self._weights, inputs)) >> 16
        total = max(-STRETCH_LIMIT, min(STRETCH_LIMIT, total))
        probability = self._squash[total + STRETCH_LIMIT]
        bit = coder.code(bit, probability)
        step = ((bit << PROBABILITY_BITS) - probability) * self._rate
        self._weights = [
            weight + (value * step >> 18)
            for weight, value in zip(self._weights, inputs, strict=True)
        ]
        self._count(active, bit << _COUNTER_BITS)
        return bit

    def _active(self, contexts: Sequence[int]) -> list[list[int]]:
        active = []
        start = self._overall[0]
        for counters, context in zip(self._counters, contexts, strict=True):
            counter = counters.get(context)
            if counter is None:
                counter = counters[context] = [start, 0]
            active.append(counter)
            start = active[0][0]
        return active

    def _count(self, active: list[list[int]], target: int) -> None:
        steps = self._steps
        active.append(self._overall)
        for counter in active:
            probability, seen = counter
            counter[0] = probability + ((target - probability) * steps[seen] >> 16)
            if seen < _MAX_COUNT:
                counter[1] = seen + 1
