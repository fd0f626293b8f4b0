"""Weights under one mixture: the one record of their prior and their variables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.models.selection import is_kernel
from tfmot_sws.prior.trainable import GaussianMixturePrior

Tensor = Any


@dataclasses.dataclass(frozen=True)
class WeightGroup:
    """Weights under one mixture.

    Args:
        prior: the mixture with its hyperpriors.
        positions: of the variables in `inner.weights`.
        variables: of the model, whose weights share the mixture's values.
        preserve_sparsity: whether weights of kernels that are zero stay zero. No mask is
            stored: a weight that is exactly zero takes no gradient and belongs to the zero
            component, so that it is zero at the next step too, after saving and under any
            optimizer.
    """

    prior: GaussianMixturePrior
    positions: tuple[int, ...]
    variables: tuple[Any, ...]
    preserve_sparsity: bool = False

    @classmethod
    def over(
        cls,
        weights: Sequence[Any],
        positions: Sequence[int],
        prior: GaussianMixturePrior,
        **options: Any,
    ) -> WeightGroup:
        """The group of the variables at some positions of a model's weights."""
        variables = tuple(weights[position] for position in positions)
        prior.kernels = tuple(map(is_kernel, variables))
        return cls(prior, tuple(positions), variables, **options)

    @property
    def size(self) -> int:
        """Number of the weights."""
        return sum(math.prod(v.shape) for v in self.variables)

    def tensors(self) -> list[Tensor]:
        """The trained weights as float32; zeros that are kept take no gradient."""
        return [self.without_zeros(v, ops.cast(v, "float32")) for v in self.variables]

    def values(self) -> list[Tensor]:
        """The trained weights as float32."""
        return [ops.cast(v, "float32") for v in self.variables]

    def without_zeros(self, variable: Any, tensor: Tensor) -> Tensor:
        """The tensor, but zero and without a gradient where a zero is to be kept."""
        if not self._keeps_zeros(variable):
            return tensor
        return ops.where(ops.equal(variable, 0), ops.zeros_like(tensor), tensor)

    def _keeps_zeros(self, variable: Any) -> bool:
        return self.preserve_sparsity and len(variable.shape) > 1

    def assignments(self) -> list[NDArray[np.int32]]:
        """The component slot of every weight: arrays shaped as the variables."""
        parts = self.prior.assign(self.values())
        # Copies, because what a backend gives may not be writable.
        shaped = [np.array(ops.convert_to_numpy(part)) for part in parts]
        for variable, part in zip(self.variables, shaped, strict=True):
            if self._keeps_zeros(variable):
                part[ops.convert_to_numpy(variable) == 0] = 0
        return shaped

    def clustered_values(self) -> list[NDArray[np.float32]]:
        """Every weight set to its component's mean: arrays shaped as the variables."""
        means = ops.convert_to_numpy(self.prior.tensors().means)
        return [means[part] for part in self.assignments()]

    def fit_initial(self, least_bits: float = 0.0) -> None:
        """Lays the first mixture over the pretrained weights; see `initial_mixture`."""
        self.prior.fit_initial([ops.convert_to_numpy(v) for v in self.variables], least_bits)
