"""A search for the widths at which a file has its size."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq

# How the logarithm of the size falls with that of the widths, as a first guess and at most,
# how far one step goes, and how many steps look for widths on both sides of the solution.
_USUAL_SLOPE, _STEEPEST, _FLATTEST, _LONGEST_STEP, _STEPS = -0.7, -3.0, -0.1, 0.7, 6
# How many trials follow between these, and the distance below which the size jumps.
_TRIALS, _SHORTEST = 10, 1e-4


def search_width(
    error_at: Callable[[float], float], start: float, bound: float, near: float
) -> None:
    """Tries widths until the error is near 0, for errors that fall as widths grow.

    Once weights have gathered, widths 5 % larger may halve the file, and a search by slopes
    alone jumps over the solution and back.

    Args:
        error_at: measures the error at a width, and notes what it needs of it. Both are
            logarithms.
        start: the first width, in [-bound, bound].
        bound: of the absolute value of widths.
        near: an error this small ends the search.
    """
    errors: dict[float, float] = {}

    def error_or_zero(width: float) -> float:
        if width not in errors:
            error = error_at(width)
            errors[width] = 0.0 if abs(error) < near else error
        return errors[width]

    ends = _find_ends(error_or_zero, start, bound)
    if ends is not None:
        brentq(error_or_zero, *ends, xtol=_SHORTEST, maxiter=_TRIALS, disp=False)


def _find_ends(
    error_at: Callable[[float], float], start: float, bound: float
) -> tuple[float, float] | None:
    """Two widths with the solution between them; `None` where it is found, or not there."""
    width, error, slope = start, error_at(start), _USUAL_SLOPE
    for _ in range(_STEPS):
        if error == 0:
            return None
        step = _within(-error / min(max(slope, _STEEPEST), _FLATTEST), _LONGEST_STEP)
        if slope == 0:
            step = math.copysign(_LONGEST_STEP, error)
        following = _within(width + step, bound)
        if following == width:
            return None
        found = error_at(following)
        if found * error < 0:
            return width, following
        slope = (found - error) / (following - width)
        if slope == 0 and error < 0 and step <= -_LONGEST_STEP and following < 0:
            # Narrower widths do not enlarge the file: each weight has its nearest value.
            # (Where wide ones do not, kernels have as few weights as they must keep.)
            return None
        width, error = following, found
    return None


def _within(value: float, bound: float) -> float:
    return min(max(value, -bound), bound)
