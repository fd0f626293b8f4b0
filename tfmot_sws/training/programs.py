"""What is computed of mixtures between steps, as programs that models of one structure share.

TensorFlow never frees what XLA compiled within another program was made from. A search over
settings trains model after model, so none may have programs of its own that do without.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from tfmot_sws.backend.compiling import traced
from tfmot_sws.prior.assignment import count
from tfmot_sws.prior.held_loss import evaluate
from tfmot_sws.prior.snapping import snap_without_gradients
from tfmot_sws.prior.survival import needs_care
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.training.groups import WeightGroup

Tensor = Any


class _Structure(NamedTuple):
    """All that a program knows of a mixture beside the values of its variables."""

    config: str
    kernels: tuple[bool, ...]


def run(method: str, groups: Sequence[WeightGroup], *arguments: Tensor) -> list[Any]:
    """Calls a method of `Mixtures`.

    Values come as arguments, because a program of JAX would make variables constants.
    """
    weights = [[ops.convert_to_tensor(v) for v in group.variables] for group in groups]
    of_priors = [[ops.convert_to_tensor(v) for v in group.prior.variables] for group in groups]
    structures = tuple(_structure(group.prior) for group in groups)
    # At the end of a scope Keras creates the variables that others have put off: here, and
    # not in the scope within the program, where none may be created.
    with keras.StatelessScope():
        pass
    return _program(method, structures)(weights, of_priors, *arguments)


def _structure(prior: GaussianMixturePrior) -> _Structure:
    return _Structure(json.dumps({**prior.get_config(), "name": "mixture"}), prior.kernels)


@functools.lru_cache(maxsize=128)
def _program(method: str, structures: tuple[_Structure, ...]) -> Callable[..., Any]:
    return traced(getattr(Mixtures(structures), method))


class Mixtures:
    """Pure functions of the values of weights and of priors, for mixtures of one structure.

    It holds priors of its own, so that no model stays in memory with a program.
    """

    def __init__(self, structures: Sequence[_Structure]) -> None:
        self._priors = []
        for structure in structures:
            prior = GaussianMixturePrior.from_config(json.loads(structure.config))
            prior.kernels = structure.kernels
            self._priors.append(prior)

    def counted(self, weights: Any, of_priors: Any) -> list[Any]:
        """Which mixtures have a kernel that needs care; the members and proportions of each."""
        every = iter(self.tensor_counts(weights, of_priors, 1.0, 1.0))
        care, results = [], []
        for prior, tensors in self._at(weights, of_priors):
            counts = next(every)
            results.append(prior.usage_after(ops.sum(counts, axis=0)))
            care.append(needs_care(prior, counts[:, 0], tensors))
        return [ops.stack(care), *results]

    def evaluated(self, weights: Any, of_priors: Any, factor: Tensor) -> list[Tensor]:
        """What the model's `HeldLoss` is to hold; `factor` is tau / N."""
        groups = [(tensors, prior.tensors()) for prior, tensors in self._at(weights, of_priors)]
        return evaluate(groups, factor)

    def tensor_counts(
        self, weights: Any, of_priors: Any, factor: Tensor | float, is_cared: Tensor | float
    ) -> list[Tensor]:
        """Number of weights in each component (T, K), of each mixture.

        Args:
            weights: values of the shared variables.
            of_priors: values of the priors' variables.
            factor: on the assignment widths.
            is_cared: 1 for widths as they are; 0 for those without the narrowing that keeps
                kernels alive.
        """
        parts = []
        for prior, tensors in self._at(weights, of_priors):
            narrowing = ops.where(is_cared > 0.5, 1.0, prior.narrowing.value)
            parts.append(prior.part(tensors, ops.unstack(factor / narrowing)))
        return count(parts)

    def snapped(self, weights: Any, of_priors: Any, snap: Tensor) -> list[list[Tensor]]:
        """The weights of each mixture, moved towards their means by a share, `snap`."""
        parts = [prior.part(tensors) for prior, tensors in self._at(weights, of_priors)]
        return snap_without_gradients(parts, snap)

    def _at(
        self, weights: Any, of_priors: Any
    ) -> Iterator[tuple[GaussianMixturePrior, list[Tensor]]]:
        """Each prior, whose variables meanwhile have given values, with its weights."""
        for prior, variables, values in zip(self._priors, weights, of_priors, strict=True):
            with keras.StatelessScope(list(zip(prior.variables, values, strict=True))):
                yield prior, [ops.cast(variable, "float32") for variable in variables]
