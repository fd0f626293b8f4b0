"""Warns at the line of the user's own code; every warning of the package is given here."""

from __future__ import annotations

import sys
import warnings
from typing import Final

# Their lines tell a user nothing: Keras calls callbacks, and hides its own frames from errors.
_NOT_THE_USERS: Final = ("tfmot_sws", "keras", "tf_keras")


class SoftWeightSharingWarning(UserWarning):
    """Something is not as its user probably meant it; the text says what to do.

    `warnings.simplefilter("error", tfmot_sws.SoftWeightSharingWarning)` makes an error of it,
    for scripts that nobody watches.
    """


def warn(message: str) -> None:
    """Warns, at the innermost line that belongs neither to this package nor to Keras."""
    frame, level = sys._getframe(), 1
    while frame.f_back and _package_of(frame.f_globals) in _NOT_THE_USERS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SoftWeightSharingWarning, stacklevel=level)


def _package_of(names: dict[str, object]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]
