"""Tells how each tensor of a model under soft weight-sharing is treated, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from tfmot_sws.models.entropy import entropy_bits
from tfmot_sws.models.selection import WeightChoice
from tfmot_sws.models.wrapped import wrapped_parts
from tfmot_sws.plain_text import cell
from tfmot_sws.rendering import as_html, as_text


@dataclasses.dataclass(frozen=True)
class SharedTensor:
    """How one tensor is shared.

    Args:
        path: of its variable.
        shape: its shape.
        scale: root mean square of its pretrained weights.
        sensitivity: mean squared gradient of one example's error loss over its weights; 0
            while it has not been measured.
        width: assignment width, in the units of the weights: the larger, the more of them
            become zero.
        zeros: number of weights in the zero component.
        distinct: number of components that it uses, zero's included.
        bits: entropy of the assignments, in bits a weight.
    """

    path: str
    shape: tuple[int, ...]
    scale: float
    sensitivity: float
    width: float
    zeros: int
    distinct: int
    bits: float

    @property
    def size(self) -> int:
        """Number of its weights."""
        return int(np.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class SharingReport:
    """The records of all shared tensors.

    Args:
        tensors: one record each, in the order of the groups.
    """

    tensors: tuple[SharedTensor, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns the records as plain values, ready for JSON."""
        return [dataclasses.asdict(tensor) for tensor in self.tensors]

    def __str__(self) -> str:
        return as_text(self.table())

    def _repr_html_(self) -> str:
        """The table, where the report is the last expression of a notebook's cell."""
        return as_html(self.table())

    def table(self) -> Table:
        """Returns the report as a rich table."""
        table = Table(
            title="Weights under soft weight-sharing",
            caption="Width: in multiples of the scale, at most 1.3 by default. It falls as "
            "the root of the sensitivity grows.",
            box=SIMPLE,
        )
        for name in ("tensor", "shape"):
            table.add_column(name, overflow="fold")
        for name in ("scale", "sensitivity", "width", "zeros", "values", "bits"):
            table.add_column(name, justify="right")
        for t in self.tensors:
            table.add_row(
                cell(t.path),
                "x".join(map(str, t.shape)) or "scalar",
                f"{t.scale:.3g}",
                f"{t.sensitivity:.1e}" if t.sensitivity else "not measured",
                f"{t.width / t.scale:.3f}",
                f"{t.zeros / t.size:.1%}",
                str(t.distinct),
                f"{t.bits:.2f}",
            )
        return table


def sharing_report(model: keras.Model) -> SharingReport:
    """Tells scale, sensitivity, assignment width and bits of every shared tensor.

    Args:
        model: from `apply_soft_weight_sharing`, before, during or after its training.

    Returns:
        The records; `print` shows them as a table, `to_dicts()` gives plain values.

    Raises:
        TypeError: the model is not wrapped.
    """
    parts = wrapped_parts(model)
    if not parts:
        raise TypeError(
            "sharing_report expects a model wrapped by apply_soft_weight_sharing; received "
            f"{type(model).__name__}. For a stripped model there is compression_report."
        )
    return SharingReport(
        tuple(
            record
            for part in parts
            for group in part.groups
            for record in _records(group, part.weight_choices)
        )
    )


def _records(group: Any, choices: Sequence[WeightChoice]) -> Iterator[SharedTensor]:
    prior = group.prior
    numbers = zip(
        *(_numbers(v) for v in (prior.tensor_scales, prior.sensitivities, prior.widths)),
        strict=True,
    )
    chosen = [choices[position] for position in group.positions]
    tensors = zip(chosen, numbers, group.assignments(), strict=True)
    for choice, (scale, sensitivity, width), slots in tensors:
        counts = np.bincount(slots.reshape(-1), minlength=prior.num_components)
        yield SharedTensor(
            path=choice.path,
            shape=choice.shape,
            scale=scale,
            sensitivity=sensitivity,
            width=width,
            zeros=int(counts[0]),
            distinct=int(np.count_nonzero(counts)),
            bits=float(entropy_bits(counts)),
        )


def _numbers(variable: keras.Variable) -> list[float]:
    values: NDArray[np.floating] = ops.convert_to_numpy(variable)
    return values.astype(float).tolist()
