"""Reads scalars of any backend."""

from __future__ import annotations

from typing import Any

from keras import ops


def to_float(scalar: Any) -> float:
    """The value of a scalar variable or tensor, to be called outside of a step."""
    return float(ops.convert_to_numpy(scalar))
