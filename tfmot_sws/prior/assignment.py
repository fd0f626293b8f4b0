"""Assigns each weight to a component: the rule of training and of stripping.

One width s decides for all components: argmax_k log pi_k - (w - mu_k)^2 / (2 s^2). With each
component's own width the zero component, narrow as it becomes in the paper, takes in hardly
more than weights that are zero already. Each tensor has an s of its own, since a shift costs
one tensor more than another; it grows during training, so that weights become zero gradually.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from tfmot_sws.backend.bins import bin_sums
from tfmot_sws.backend.compiling import compiled
from tfmot_sws.backend.rows import SMALL, Rows, lay_out
from tfmot_sws.prior.density import MixtureTensors

Tensor = Any
# Up to so many components an interval is found by comparing with each.
_FEW = 32


class Intervals(NamedTuple):
    """The rule of a common width: which component is the best in which interval of w.

    The scores of two components differ by a straight line in w. So each component is the
    best in one interval or nowhere, and the intervals lie in the order of the means.

    begins: where each component's interval begins, infinity for none, one line for each row
        of weights (R, K) or for each tensor (T, K).
    order: the components' slots by their means, int32, (K,).
    means: their means, ascending, (K,).
    """

    begins: Tensor
    order: Tensor
    means: Tensor

    @property
    def num_components(self) -> int:
        """K."""
        return int(self.means.shape[0])

    def of_rows(self, owners: Any) -> Intervals:
        """The rule of rows whose tensors are known."""
        return self._replace(begins=ops.take(self.begins, owners, axis=0))

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Slots of the components of weights (R, L), int32, and those components' means.

        Of few components one comparison each finds a weight's interval, which vectorises as
        a search and a gather do not; of many the program would become long, and its
        compilation with it. With many a matrix has one row; see `lay_out_for`.
        """
        if self.num_components > _FEW:
            return self._search(rows)
        begins, order, means = self
        index = ops.zeros_like(rows, dtype="int32") + order[0]
        target = ops.zeros_like(rows) + means[0]
        for k in range(1, self.num_components):
            beyond = rows > begins[:, k : k + 1]
            index = ops.where(beyond, order[k], index)
            target = ops.where(beyond, means[k], target)
        return index, target

    def _search(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        begins = self.begins[0]
        ascending = ops.argsort(begins)
        begins, order, means = (
            ops.take(field, ascending) for field in (begins, self.order, self.means)
        )
        flat = ops.reshape(rows, (-1,))
        place = ops.maximum(ops.searchsorted(begins, flat, side="left") - 1, 0)
        index, target = ops.take(order, place), ops.take(means, place)
        return ops.reshape(index, rows.shape), ops.reshape(target, rows.shape)


class Scores(NamedTuple):
    """The rule of each component's own width, the paper's: argmax_k of responsibilities."""

    mixture: MixtureTensors

    @property
    def num_components(self) -> int:
        """K."""
        return int(self.mixture.means.shape[0])

    def of_rows(self, _: Any) -> Scores:
        """The same for all tensors."""
        return self

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `Intervals.find`."""
        mixture = self.mixture
        precisions = ops.exp(mixture.log_precisions)
        offsets = mixture.log_proportions + 0.5 * mixture.log_precisions

        def score(k: int) -> Tensor:
            return offsets[k] - 0.5 * precisions[k] * ops.square(rows - mixture.means[k])

        # A running maximum fuses into one pass over the weights; an argmax would hold
        # K copies of them.
        best, index = score(0), ops.zeros_like(rows, dtype="int32")
        target = ops.zeros_like(rows) + mixture.means[0]
        for k in range(1, self.num_components):
            candidate = score(k)
            better = candidate > best
            index = ops.where(better, k, index)
            target = ops.where(better, mixture.means[k], target)
            best = ops.maximum(candidate, best)
        return index, target


Rule = Intervals | Scores


def rule_of(mixture: MixtureTensors, widths: Sequence[Tensor]) -> Rule:
    """The rule of tensors; arguments as of `assign`."""
    return _intervals(mixture, ops.stack(widths)) if widths else Scores(mixture)


def lay_out_for(rule: Rule, tensors: Sequence[Tensor]) -> list[tuple[Rows, Rule]]:
    """Lays tensors out for the components to be found; each matrix with its rule."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    few = isinstance(rule, Scores) or rule.num_components <= _FEW
    return [(rows, rule.of_rows(rows.owners)) for rows in lay_out(shapes, SMALL if few else 0)]


@compiled
def _intervals(mixture: MixtureTensors, widths: Tensor) -> Intervals:
    order = ops.cast(ops.argsort(mixture.means), "int32")
    means, offsets = (ops.take(f, order) for f in (mixture.means, mixture.log_proportions))
    return Intervals(_begins(means, offsets, widths), order, means)


def _begins(means: Tensor, offsets: Tensor, widths: Tensor) -> Tensor:
    """Where each component becomes the best, means ascending; infinity where it never does.

    Args:
        means: shape (K,), ascending.
        offsets: shape (K,), log pi_k.
        widths: s > 0, shape (T,).

    Returns:
        Shape (T, K).
    """
    gaps = means[None, :] - means[:, None]
    # Entry (t, j, k): from where on k is better than j, for j before k.
    after = 0.5 * (means[None, :] + means[:, None]) + ops.square(widths)[:, None, None] * (
        offsets[:, None] - offsets[None, :]
    ) / ops.maximum(gaps, 1e-30)
    places = ops.arange(means.shape[0])
    before = places[:, None] < places[None, :]
    begins = ops.max(ops.where(before, after, -np.inf), axis=1)
    ends = ops.min(ops.where(before, after, np.inf), axis=2)
    return ops.where(begins < ends, begins, np.inf)


def assign(
    weights: Sequence[Tensor], mixture: MixtureTensors, widths: Sequence[Tensor]
) -> list[Tensor]:
    """Index of the component of every weight; see `GaussianMixture.assign`.

    Args:
        weights: float32 tensors of any shapes.
        mixture: the mixture; components that have died are never chosen.
        widths: scalar tensors s > 0, one for each of the weights; an empty list takes each
            component's own.

    Returns:
        int32 indices of the shapes of `weights`.
    """
    found: dict[int, Tensor] = {}
    for rows, rule in lay_out_for(rule_of(mixture, widths), weights):
        index = _find_index(rows.pack(weights), rule)
        found.update(zip(rows.positions, rows.unpack(index), strict=True))
    return [found[i] for i in range(len(weights))]


@compiled
def _find_index(rows: Tensor, rule: Rule) -> Tensor:
    return rule.find(rows)[0]


def count(
    weights: Sequence[Tensor], mixture: MixtureTensors, widths: Sequence[Tensor]
) -> Tensor:
    """Number of each tensor's weights in each component, (T, K); arguments as of `assign`."""
    # Padding counts nothing.
    ones = [ops.ones_like(tensor) for tensor in weights]
    parts = [
        ops.segment_sum(
            _count_rows(rows.pack(ones), rows.pack(weights), rule), rows.owners, len(weights)
        )
        for rows, rule in lay_out_for(rule_of(mixture, widths), weights)
    ]
    return sum(parts[1:], parts[0])


@compiled
def _count_rows(ones: Tensor, rows: Tensor, rule: Rule) -> Tensor:
    index, _ = rule.find(rows)
    num_rows, num_components = rows.shape[0], rule.num_components
    starts = num_components * ops.arange(num_rows, dtype="int32")[:, None]
    sums = bin_sums(ones, starts + index, num_rows * num_components)
    return ops.reshape(sums, (num_rows, num_components))
