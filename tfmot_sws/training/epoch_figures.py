"""The figures of an epoch under soft weight-sharing, for the logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfmot_sws.backend.scalars import to_float
from tfmot_sws.models.entropy import entropy_bits


def epoch_figures(
    sharings: Sequence[Any], first_steps: Sequence[float], logs: Mapping[str, Any]
) -> dict[str, float]:
    """The figures that `AnnealAndMerge` names.

    Args:
        sharings: the `WeightSharing` of each wrapped part of a model.
        first_steps: the step of each at which the epoch began.
        logs: those of Keras, with the whole loss of the training.
    """
    complexity = sum(
        to_float(sharing.complexity_sum) / max(to_float(sharing.steps) - first, 1.0)
        for sharing, first in zip(sharings, first_steps, strict=True)
    )
    groups = [group for sharing in sharings for group in sharing.groups]
    counts = [of_group for sharing in sharings for of_group in sharing.counts()]
    total = sum(of_group.sum() for of_group in counts)
    bits = sum(entropy_bits(of_group) * of_group.sum() for of_group in counts)
    return {
        "error_loss": float(logs.get("loss", 0.0)) - complexity,
        "complexity_loss": complexity,
        "num_components": sum(group.prior.alive_slots.size for group in groups),
        "zeros": float(sum(of_group[0] for of_group in counts) / total),
        "bits_per_weight": float(bits / total),
        "snap": to_float(sharings[0].snap),
    }
