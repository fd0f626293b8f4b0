"""A search for the widths at which a file has its size."""

from __future__ import annotations

# How the logarithm of the size falls with that of the widths, as a first guess and at most,
# and how far one trial goes.
_USUAL_SLOPE, _STEEPEST, _FLATTEST, _LONGEST_STEP = -0.7, -3.0, -0.1, 0.7
# How near to an end of what is left of it a search looks next, as a share of its length.
_INSET = 0.1


class WidthSearch:
    """Finds the width at which the error is 0, for errors that fall as widths grow.

    Once weights have gathered, a hundredth more takes a third of the indices away, and a
    hundredth less brings none back. Slopes alone do not find a way there: as soon as there
    are widths on both sides, the next one lies between them.
    """

    def __init__(self) -> None:
        self._too_narrow: tuple[float, float] | None = None
        self._too_wide: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None
        self._slope = _USUAL_SLOPE

    def next(self, width: float, error: float) -> float:
        """The width to try after one that has given this error; both are logarithms."""
        if error > 0:
            self._too_narrow = width, error
        else:
            self._too_wide = width, error
        if self._too_narrow and self._too_wide:
            return self._between(self._too_narrow, self._too_wide)
        if self._last and width != self._last[0]:
            self._slope = (error - self._last[1]) / (width - self._last[0])
        self._last = width, error
        step = -error / min(max(self._slope, _STEEPEST), _FLATTEST)
        return width + min(max(step, -_LONGEST_STEP), _LONGEST_STEP)

    def is_stuck(self, error: float) -> bool:
        """Whether the file is too small, and narrower widths no longer change it."""
        return self._last is not None and error < 0 and error == self._last[1]

    def _between(self, narrow: tuple[float, float], wide: tuple[float, float]) -> float:
        """Where a straight line has no error, but not too near to either end."""
        share = narrow[1] / (narrow[1] - wide[1])
        return narrow[0] + (wide[0] - narrow[0]) * min(max(share, _INSET), 1.0 - _INSET)
