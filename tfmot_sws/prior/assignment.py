"""Assigns each weight to a component: the rule of training and of stripping.

One width s decides for all components: argmax_k log pi_k - (w - mu_k)^2 / (2 s^2). With each
component's own width the zero component, narrow as it becomes in the paper, takes in hardly
more than weights that are zero already. Each tensor has an s of its own, since a shift costs
one tensor more than another; it grows during training, so that weights become zero gradually.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.backend.bins import bin_sums
from tfmot_sws.backend.compiling import compiled
from tfmot_sws.backend.rows import SMALL, Rows, lay_out
from tfmot_sws.prior.density import MixtureTensors

Tensor = Any
# Up to so many components an interval is found by comparing with each.
_FEW = 32


class Part(NamedTuple):
    """Tensors under one mixture, and what their assignment depends on.

    weights: float32 tensors of any shapes.
    mixture: the mixture; components that have died are never chosen.
    widths: scalar tensors s > 0, one for each of the weights; an empty list takes each
        component's own.
    """

    weights: Sequence[Tensor]
    mixture: MixtureTensors
    widths: Sequence[Tensor]


class Intervals(NamedTuple):
    """The rule of a common width: which component is the best in which interval of w.

    The scores of two components differ by a straight line in w. So each component is the
    best in one interval or nowhere, and the intervals lie in the order of the means. There is
    a line of K for each row of weights, or for each tensor.

    begins: where each component's interval begins, infinity for none.
    order: the components' slots by their means, int32.
    means: their means, ascending.
    """

    begins: Tensor
    order: Tensor
    means: Tensor

    @property
    def num_components(self) -> int:
        """K."""
        return int(self.means.shape[1])

    def of_rows(self, owners: Any) -> Intervals:
        """The rule of rows whose tensors are known."""
        return Intervals(*(ops.take(field, owners, axis=0) for field in self))

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Slots of the components of weights (R, L), int32, and those components' means.

        Of few components one comparison each finds a weight's interval, which vectorises as
        a search and a gather do not; of many the program would become long, and its
        compilation with it. With many a matrix has one row; see `lay_out_for`.
        """
        if self.num_components > _FEW:
            return self._search(rows)
        begins, order, means = self
        index = ops.zeros_like(rows, dtype="int32") + order[:, :1]
        target = ops.zeros_like(rows) + means[:, :1]
        for k in range(1, self.num_components):
            beyond = rows > begins[:, k : k + 1]
            index = ops.where(beyond, order[:, k : k + 1], index)
            target = ops.where(beyond, means[:, k : k + 1], target)
        return index, target

    def _search(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        ascending = ops.argsort(self.begins[0])
        begins, order, means = (ops.take(field[0], ascending) for field in self)
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


def group_parts(parts: Sequence[Part]) -> list[list[int]]:
    """Positions of the parts whose tensors can be rows of one matrix.

    That are those of as many components, with widths of their own.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for position, part in enumerate(parts):
        alone = -1 if part.widths else position
        groups.setdefault((part.mixture.means.shape[0], alone), []).append(position)
    return list(groups.values())


def lay_out_for(parts: Sequence[Part]) -> list[tuple[Rows, Rule]]:
    """Lays out the tensors of parts of one group, one part after the other.

    Returns:
        Each matrix with the rule of its rows.
    """
    weights = [tensor for part in parts for tensor in part.weights]
    rule = _rule_of(parts)
    few = isinstance(rule, Scores) or rule.num_components <= _FEW
    shapes = [tuple(tensor.shape) for tensor in weights]
    return [(rows, rule.of_rows(rows.owners)) for rows in lay_out(shapes, SMALL if few else 0)]


def mixtures_of_tensors(parts: Sequence[Part]) -> NDArray[np.int32]:
    """The number of the part that each tensor belongs to, (T,)."""
    return np.repeat(np.arange(len(parts), dtype=np.int32), [len(p.weights) for p in parts])


def _rule_of(parts: Sequence[Part]) -> Rule:
    if not parts[0].widths:
        return Scores(parts[0].mixture)
    means, offsets = (
        ops.stack([getattr(part.mixture, name) for part in parts])
        for name in ("means", "log_proportions")
    )
    widths = ops.stack([width for part in parts for width in part.widths])
    mixtures = ops.convert_to_tensor(mixtures_of_tensors(parts))
    return _intervals(means, offsets, widths, mixtures)


@compiled
def _intervals(means: Tensor, offsets: Tensor, widths: Tensor, mixtures: Tensor) -> Intervals:
    order = ops.argsort(means, axis=1)
    means, offsets = (ops.take_along_axis(f, order, axis=1) for f in (means, offsets))
    order, means, offsets = (
        ops.take(f, mixtures, axis=0) for f in (ops.cast(order, "int32"), means, offsets)
    )
    return Intervals(_begins(means, offsets, widths), order, means)


def _begins(means: Tensor, offsets: Tensor, widths: Tensor) -> Tensor:
    """Where each component becomes the best, means ascending; infinity where it never does.

    Args:
        means: shape (T, K), ascending.
        offsets: shape (T, K), log pi_k.
        widths: s > 0, shape (T,).

    Returns:
        Shape (T, K).
    """
    gaps = means[:, None, :] - means[:, :, None]
    # Entry (t, j, k): from where on k is better than j, for j before k.
    after = 0.5 * (means[:, None, :] + means[:, :, None]) + ops.square(widths)[
        :, None, None
    ] * (offsets[:, :, None] - offsets[:, None, :]) / ops.maximum(gaps, 1e-30)
    places = ops.arange(means.shape[1])
    before = places[:, None] < places[None, :]
    begins = ops.max(ops.where(before, after, -np.inf), axis=1)
    ends = ops.min(ops.where(before, after, np.inf), axis=2)
    return ops.where(begins < ends, begins, np.inf)


def assign(part: Part) -> list[Tensor]:
    """Index of the component of every weight; see `GaussianMixture.assign`.

    Returns:
        int32 indices of the shapes of the part's weights.
    """
    found: dict[int, Tensor] = {}
    for rows, rule in lay_out_for([part]):
        index = _find_index(rows.pack(part.weights), rule)
        found.update(zip(rows.positions, rows.unpack(index), strict=True))
    return [found[i] for i in range(len(part.weights))]


@compiled
def _find_index(rows: Tensor, rule: Rule) -> Tensor:
    return rule.find(rows)[0]


def count(parts: Sequence[Part]) -> list[Tensor]:
    """Number of each tensor's weights in each component, of each part (T, K)."""
    found: dict[int, Tensor] = {}
    for positions in group_parts(parts):
        together = [parts[position] for position in positions]
        counts = _count(together)
        ends = itertools.accumulate(len(part.weights) for part in together)
        for position, end in zip(positions, ends, strict=True):
            found[position] = counts[end - len(parts[position].weights) : end]
    return [found[position] for position in range(len(parts))]


def _count(parts: Sequence[Part]) -> Tensor:
    """`count` of the parts of one group, as one matrix."""
    weights = [tensor for part in parts for tensor in part.weights]
    # Padding counts nothing.
    ones = [ops.ones_like(tensor) for tensor in weights]
    counts = [
        ops.segment_sum(
            sum_in_rows(rows.pack(ones), rows.pack(weights), rule), rows.owners, len(weights)
        )
        for rows, rule in lay_out_for(parts)
    ]
    return sum(counts[1:], counts[0])


@compiled
def sum_in_rows(values: Tensor, rows: Tensor, rule: Rule) -> Tensor:
    """The sum of the values of each component's members, for each row (R, K).

    It finds the members again, because a comparison a component is cheaper than writing and
    reading an index for each weight.
    """
    index, _ = rule.find(rows)
    num_rows, num_components = rows.shape[0], rule.num_components
    starts = num_components * ops.arange(num_rows, dtype="int32")[:, None]
    sums = bin_sums(values, starts + index, num_rows * num_components)
    return ops.reshape(sums, (num_rows, num_components))
