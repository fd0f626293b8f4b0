"""Tells whether a training under soft weight-sharing went well, in words for the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfmot_sws.backend.scalars import to_float

# Of what a network had learned it may lose this share without a word.
_LOST = 0.2
# A network has learned something if its error loss lies so much below that by chance.
_LEARNED = 0.1
# How far the size of the file may lie from the one that was asked for.
_NEAR_TARGET = 0.03
# From here on its outputs hardly depend on its inputs.
_CONSTANT = 0.9


def find_problems(model: Any, parts: Sequence[Any]) -> list[str]:
    """What is wrong with a trained model: a sentence each that says what and what to do.

    Args:
        model: wrapped, or a tf_keras model with wrapped layers.
        parts: its wrapped parts.
    """
    problems = []
    snap = min(to_float(part.snap) for part in parts)
    if snap < 1.0 - 1e-6:
        problems.append(
            f"The weights are only {snap:.0%} of the way to their clusters (snap), so "
            "stripping changes what the network computes. Train to the end of the epochs "
            "that fit or AnnealAndMerge(epochs=) was given, or with a snap schedule that ends "
            "at 1."
        )
    problems += filter(None, (_off_target(part.sharing) for part in parts))
    lost = max(to_float(part.sharing.lost_share) for part in parts)
    if lost > _CONSTANT:
        problems.append(
            f"The outputs of '{model.name}' hardly depend on its inputs any more: {lost:.0%} "
            f"of what it had learned is lost. {_way_out(parts)}"
        )
    elif lost > _LOST:
        problems.append(
            f"The error loss of '{model.name}' ends far above where it began: {lost:.0%} of "
            f"what it had learned is lost. {_way_out(parts)}"
        )
    return problems


def _off_target(sharing: Any) -> str:
    """Words if the file is not of the size that was asked for; empty if it is."""
    if sharing.target is None:
        return ""
    asked, size = sharing.control.asked, sharing.control.size
    if not size or abs(size / asked - 1.0) <= _NEAR_TARGET:
        return ""
    return f"The file will take {size:,.0f} bytes; {sharing.target} asks for {asked:,.0f}. " + (
        "Train for more epochs, or ask for a larger file."
        if size > asked
        else "It is smaller because the weights took fewer values than they might. Where the "
        "accuracy is right, nothing is amiss; else train with a larger num_components."
    )


def share_of_lost(before: float, now: float, by_chance: float) -> float:
    """How much of what a network had learned is lost, 0 to 1.

    Where its error loss was hardly better than by chance there was little to lose, and
    nothing is said.

    Args:
        before: the error loss of the pretrained network.
        now: that of the network as it is.
        by_chance: that with each example's target given to the next; NaN if unknown.

    Example:
        >>> share_of_lost(0.5, 1.0, 2.5), share_of_lost(2.4, 2.5, 2.5)
        (0.25, 0.0)
    """
    learned = by_chance - before
    if not learned > _LEARNED * abs(by_chance):
        return 0.0
    return min(max((now - before) / learned, 0.0), 1.0)


def _way_out(parts: Sequence[Any]) -> str:
    sharing = parts[0].sharing
    if sharing.target:
        other = f"a larger file than {sharing.target}"
    else:
        tau = to_float(parts[0].complexity_weight)
        other = f"a smaller complexity_weight than {tau:.2g}, say a third of it"
    return (
        f"Start again from the pretrained model, with more epochs or with {other}; and see "
        "that plain fit of the pretrained model keeps its accuracy at this learning rate."
    )
