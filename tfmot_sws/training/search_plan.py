"""Which size a search asks for next."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tfmot_sws.training.search_result import Trial

# The ratio of the first training, the factor to the next while each meets the condition (or
# none does), and the distance at which two ratios are as good as one.
_FIRST_RATIO, _FACTOR, _NEAR = 16.0, 2.0, 1.1
# Below this ratio a search gives up.
_LEAST_RATIO = 4.0
# Between a training that met the condition and one that did not, no nearer to either than so.
_NEAREST, _FARTHEST = 0.3, 0.7


def next_ratio(trials: Sequence[Trial], max_drop: float, largest: float) -> float | None:
    """The compression ratio to ask for next; `None` once the search is at its end.

    Args:
        trials: all trainings so far.
        max_drop: the condition.
        largest: the largest ratio that can be asked for.
    """
    good = max((trial for trial in trials if trial.met), key=lambda t: t.ratio, default=None)
    low = good.ratio if good else 0.0
    bad = [trial for trial in trials if not trial.met and trial.ratio > low]
    if not trials:
        return min(_FIRST_RATIO, largest)
    if not bad:
        return low * _FACTOR if low * _FACTOR < largest else _if_far(largest, low)
    worst = min(bad, key=lambda trial: trial.ratio)
    if good is None:
        # A ratio that was asked for is met but for some per cent.
        less = worst.ratio / _FACTOR
        return less if less * _NEAR >= _LEAST_RATIO else None
    if worst.ratio / low < _NEAR:
        return None
    # The drop grows about as the logarithm of the ratio in between.
    share = (max_drop - good.drop) / max(worst.drop - good.drop, 1e-12)
    if math.isnan(share):
        share = _NEAREST
    return low * (worst.ratio / low) ** min(max(share, _NEAREST), _FARTHEST)


def _if_far(largest: float, low: float) -> float | None:
    return largest if largest / low >= _NEAR else None
