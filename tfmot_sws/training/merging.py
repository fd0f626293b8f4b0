"""Merging of components that have become near-identical, and death of unused ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tfmot_sws.prior.trainable import GaussianMixturePrior


def merge_components(
    prior: GaussianMixturePrior, counts: NDArray[np.intp], threshold: float
) -> None:
    """Lets unused components die and makes near-identical ones one.

    Slots stay, with a mark whether they live: neither shapes nor compiled steps change.

    Args:
        prior: the mixture, changed in place.
        counts: number of weights in each slot, shape (K,).
        threshold: symmetric KL divergence in nats below which two components merge.
    """
    if not prior.is_finite:
        # The training has diverged, which shows in the loss at the end of the epoch.
        return
    slots = prior.alive_slots
    used = counts[slots] > 0
    used[0] = True
    mixture = prior.mixture().select(used)
    slots = slots[used]
    # Two points of a grid have no mean on the grid.
    groups = mixture.merge_groups(0.0 if prior.form.is_uniform else threshold)
    if len(groups) < prior.alive_slots.size:
        order = np.argsort([group[0] for group in groups])
        groups = [groups[i] for i in order]
        alive = slots[[group[0] for group in groups]]
        prior.set_mixture(mixture.merge(groups), alive)
        # By these a mean's gradient is averaged, so they cannot wait for the next count.
        members = np.zeros(prior.num_components, np.float32)
        members[alive] = [counts[slots[group]].sum() for group in groups]
        prior.members.assign(members)
