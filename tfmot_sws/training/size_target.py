"""The size that a user asks for: a ratio, a number of bytes, or bits a weight."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Final, NamedTuple

_UNITS: Final = {
    **dict.fromkeys(("", "b", "byte", "bytes"), 1),
    **{"kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2},
}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE)

# An index of a codebook of 256 values takes as many.
MOST_BITS: Final = 8.0


@dataclasses.dataclass(frozen=True)
class FileSize:
    """The size of a `.sws` file.

    Args:
        total: bytes of the whole file.
        shared: those of them that are indices and codebooks of the shared weights.
    """

    total: int
    shared: int

    @property
    def others(self) -> int:
        """Bytes of all that is not shared: architecture, other variables, framing."""
        return self.total - self.shared


@dataclasses.dataclass(frozen=True)
class SizeTarget:
    """What the user asks for; exactly one is given.

    Args:
        target_ratio: float32 bytes of all variables over those of the file, above 1.
        target_size: bytes of the file.
        target_bits: bits a shared weight takes, codebooks included.

    Example:
        >>> now = FileSize(total=9_000, shared=1_000)
        >>> SizeTarget.of(None, "50 kB", None).num_bytes(400_000, now, 90_000)
        50000.0
        >>> SizeTarget.of(20, None, None).num_bytes(400_000, now, 90_000)
        20000.0
        >>> SizeTarget.of(None, None, 0.8).num_bytes(400_000, now, 90_000)
        17000.0
    """

    target_ratio: float | None = None
    target_size: float | None = None
    target_bits: float | None = None

    @classmethod
    def of(cls, ratio: Any, size: Any, bits: Any) -> SizeTarget | None:
        """What the arguments of `apply_soft_weight_sharing` ask for; `None` for nothing.

        Raises:
            ValueError: more than one is given, or one is out of range.
        """
        given = {"target_ratio": ratio, "target_size": size, "target_bits": bits}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            named = ", ".join(f"{name}={value!r}" for name, value in given.items())
            raise ValueError(f"State one target only; received {named}.")
        checks = {"target_ratio": _ratio, "target_size": _size, "target_bits": _bits}
        values = {name: checks[name](value) for name, value in given.items()}
        return cls(**values) if values else None

    def num_bytes(self, dense_bytes: int, size: FileSize, num_weights: int) -> float:
        """The size that the file is to have.

        Args:
            dense_bytes: of all variables of the model, uncompressed.
            size: of the file as it would be now.
            num_weights: number of shared weights.
        """
        if self.target_ratio is not None:
            return dense_bytes / self.target_ratio
        if self.target_size is not None:
            return self.target_size
        assert self.target_bits is not None
        return size.others + self.target_bits * num_weights / 8

    def __str__(self) -> str:
        (pair,) = ((k, v) for k, v in dataclasses.asdict(self).items() if v is not None)
        return f"{pair[0]}={pair[1]:g}"


class ControlState(NamedTuple):
    """Where the control of the size stands; a variable of the wrapper keeps it.

    Args:
        log_gain: logarithm of the factor on tau.
        log_width: logarithm of the factor on all assignment widths.
        start: logarithm of the size over the one asked for, when the control began.
        others: bytes of all that is not shared, when the file was last measured.
        cost: bytes that indices and codebooks took then, over what they ideally take.
        ideal: what they ideally took then: entropy, and a float32 for each value.
        fraction: of the training at the last update; below 0 before the first.
        size: of the file, in bytes, as last measured or estimated.
        asked: the size that was asked for, in bytes.
    """

    log_gain: float = 0.0
    log_width: float = 0.0
    start: float = 0.0
    others: float = 0.0
    cost: float = 1.0
    ideal: float = 0.0
    fraction: float = -1.0
    size: float = 0.0
    asked: float = 0.0


def _number(value: Any) -> float:
    """The value if it is a number, NaN for anything else."""
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _ratio(value: Any) -> float:
    number = _number(value)
    wanted = "how many times smaller the file is to be than the float32 weights: above 1"
    return _checked(1 < number < math.inf, number, "target_ratio", wanted, value)


def _size(value: Any) -> float:
    number = _number(value)
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match and match[2].lower() in _UNITS:
            number = float(match[1]) * _UNITS[match[2].lower()]
    wanted = "a number of bytes, or text such as '50 kB', '64 KiB' or '1.5 MB'"
    return _checked(1 <= number < math.inf, number, "target_size", wanted, value)


def _bits(value: Any) -> float:
    number = _number(value)
    wanted = "the bits that a shared weight takes in the file: above 0, at most 8"
    return _checked(0 < number <= MOST_BITS, number, "target_bits", wanted, value)


def _checked(is_right: bool, number: float, name: str, wanted: str, value: Any) -> float:
    if not is_right:
        raise ValueError(f"{name} must be {wanted}; received {value!r}.")
    return number
