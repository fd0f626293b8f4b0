"""Rounds what is not shared, in training too, and puts BatchNorm in its shortest form.

On a network with BatchNorm most of a compressed file would be float32 vectors. At inference
the four vectors of a BatchNorm are two: with a = gamma / sqrt(variance + epsilon) it computes
a·x + (beta - a·mean), and a bias in front of it only moves the mean. Stripping gives

    gamma <- a·sqrt(1 + epsilon),   beta <- beta - a·(mean - bias),
    mean <- 0,   variance <- 1,   bias <- 0.

These two vectors are rounded, and the network trains on rounded ones, as it does on snapped
weights: training puts in place of gamma and beta those with which the layer computes the
same with its present statistics. So stripping changes nothing.

Scales have a number of significant bits. Offsets lie on a grid as coarse as that of the
scales: their error counts against the spread of what they are added to, which is gamma,
however large they are themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence
from typing import Any, Final

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.models.libraries import native
from tfmot_sws.models.normalization import batch_norms
from tfmot_sws.models.selection import WeightChoice, is_kernel
from tfmot_sws.prior.rounding import power_of_two, round_significant

Tensor = Any

# Significant bits of scales: the fewest with which one dense network bore the rounding without
# any training on it (docs/experiments.md, 20).
SCALE_BITS: Final = 5
# Of vectors of which nothing tells how exact they must be: those of bfloat16.
_OTHER_BITS: Final = 8
_SCALES, _OFFSETS = ("gamma", "scale"), ("beta",)


@dataclasses.dataclass(frozen=True)
class Affine:
    """A scale and an offset by their positions in `model.weights`; `None` where there is none.

    Args:
        gamma, beta: the scale, and what is added after it.
        moving_mean, moving_variance: those of a BatchNorm that may be two vectors.
        bias: of the layer in front of that BatchNorm.
        epsilon: of the BatchNorm.
    """

    gamma: int | None = None
    beta: int | None = None
    moving_mean: int | None = None
    moving_variance: int | None = None
    bias: int | None = None
    epsilon: float = 0.0

    @property
    def ends(self) -> list[int]:
        """The positions of the vectors that are rounded."""
        return [i for i in (self.gamma, self.beta) if i is not None]

    @property
    def is_batch_norm(self) -> bool:
        """Whether its statistics become part of the two vectors."""
        return self.moving_variance is not None


class Unshared:
    """The vectors of one model that are rounded, and the forms of its BatchNorm layers.

    Args:
        variables: the model's, in the order of its `weights`.
        affines: its scales and offsets.
        others: positions of other vectors to round.
        is_rounded: whether anything is rounded; BatchNorm is given its short form anyhow.
    """

    def __init__(
        self,
        variables: Sequence[Any],
        affines: Sequence[Affine] = (),
        others: Sequence[int] = (),
        *,
        is_rounded: bool = True,
    ) -> None:
        self.affines, self.others, self.is_rounded = tuple(affines), tuple(others), is_rounded
        self._variables = variables

    @classmethod
    def of(
        cls,
        model: Any,
        variables: Sequence[Any],
        choices: Sequence[WeightChoice],
        replaceable: Container[int] | None = None,
        **options: Any,
    ) -> Unshared:
        """Those of a model, of which some weights are shared.

        Args:
            model: of Keras 3 or tf_keras.
            variables: its weights, as `view_of` gives them.
            choices: what was decided about each of them.
            replaceable: the `id` of each variable whose place a tensor can take; `None` for
                all.
            options: as of the class.
        """
        own = {id(native(v)): i for i, v in enumerate(variables)}
        affines = [
            _affine_of(norm, own)
            for norm in batch_norms(model)
            # A vector that shares the values of a mixture keeps them.
            if not any(choices[own[id(native(v))]].shared for v in norm.own_variables)
        ]
        taken = {value for affine in affines for value in vars(affine).values()}
        free = [
            i
            for i, (variable, choice) in enumerate(zip(variables, choices, strict=True))
            if i not in taken and _is_vector(variable) and not choice.shared
        ]
        pairs = _pairs([(i, variables[i]) for i in free])
        paired = {value for pair in pairs for value in (pair.gamma, pair.beta)}
        others = [i for i in free if i not in paired]
        found = cls(variables, [*affines, *pairs], others, **options)
        return found if replaceable is None else found._only(replaceable)

    def _only(self, replaceable: Container[int]) -> Unshared:
        """Without rounding where a tensor cannot take the place of a variable."""
        if all(self._id(i) in replaceable for i in self._taken()):
            return self
        affines = [a for a in self.affines if all(self._id(i) in replaceable for i in a.ends)]
        others = [i for i in self.others if self._id(i) in replaceable]
        return Unshared(self._variables, affines, others, is_rounded=self.is_rounded)

    @property
    def statistics(self) -> list[int]:
        """Positions of the moving variances of BatchNorm layers that have a short form."""
        return [a.moving_variance for a in self.affines if a.moving_variance is not None]

    @property
    def taken_variables(self) -> list[Any]:
        """The variables whose places tensors take in a step, in the order of `step`."""
        return [self._variables[i] for i in self._taken()]

    def _taken(self) -> list[int]:
        if not self.is_rounded:
            return []
        return [*(i for affine in self.affines for i in affine.ends), *self.others]

    def to_config(self) -> dict[str, Any]:
        """Plain values; the inverse is `Unshared(variables, **from_config(config))`."""
        return {
            "affines": [dataclasses.asdict(affine) for affine in self.affines],
            "others": list(self.others),
            "is_rounded": self.is_rounded,
        }

    def step(self, snap: Tensor, snapped: dict[int, Tensor]) -> list[tuple[Any, Tensor]]:
        """What a training step puts in place of vectors, each with its variable.

        The gradient passes straight through.

        Args:
            snap: the share of the way to the rounded values, 0 to 1.
            snapped: tensors that take the places of other variables, by the variable's `id`.
        """
        if not self.is_rounded:
            return []
        tensors: list[Tensor] = []
        if self.affines:
            read = _Columns.read(self._variables, self.affines, snapped)
            for affine, scale, offset in read.split(*read.long_form(read.short_form(snap))):
                ends = ((affine.gamma, scale), (affine.beta, offset))
                tensors += [tensor for position, tensor in ends if position is not None]
        for i in self.others:
            value = ops.cast(self._variables[i], "float32")
            tensors.append(_between(value, round_significant(value, _OTHER_BITS), snap))
        return [
            (variable, _straight_through(variable, tensor))
            for variable, tensor in zip(self.taken_variables, tensors, strict=True)
        ]

    def stripped(
        self, values: dict[int, NDArray[Any]], *, keep_statistics: bool
    ) -> dict[int, NDArray[Any]]:
        """The values to strip to, by the `id` of the variable.

        Args:
            values: those of all variables, shared weights being at their means.
            keep_statistics: whether BatchNorm keeps its four vectors.
        """
        found: dict[int | None, Any] = {}
        read = _Columns.read(self._variables, self.affines, values) if self.affines else None
        if read is not None:
            short = read.short_form(1.0 if self.is_rounded else 0.0)
            columns = read.long_form(short) if keep_statistics else short
            for affine, scale, offset in read.split(*columns):
                found |= {affine.gamma: scale, affine.beta: offset}
                if affine.is_batch_norm and not keep_statistics:
                    found |= self._constants(affine, values)
        if self.is_rounded:
            for i in self.others:
                value = ops.cast(values[self._id(i)], "float32")
                found[i] = round_significant(value, _OTHER_BITS)
        return {
            self._id(i): np.asarray(ops.convert_to_numpy(value))
            for i, value in found.items()
            if i is not None
        }

    def _constants(self, affine: Affine, values: dict[int, Any]) -> dict[int | None, Any]:
        """The vectors of a BatchNorm that have nothing left to tell."""
        constants: dict[int | None, Any] = {}
        if affine.gamma is not None:
            constants[affine.moving_variance] = ops.ones(self._shape(affine.moving_variance))
        mean = ops.cast(values[self._id(affine.moving_mean)], "float32")
        if affine.bias is not None:
            mean = mean - ops.reshape(values[self._id(affine.bias)], mean.shape)
            constants[affine.bias] = ops.zeros(self._shape(affine.bias))
        constants[affine.moving_mean] = mean if affine.beta is None else ops.zeros_like(mean)
        return constants

    def _id(self, position: Any) -> int:
        return id(native(self._variables[position]))

    def _shape(self, position: Any) -> tuple[int, ...]:
        return tuple(self._variables[position].shape)

    @classmethod
    def from_config(cls, config: dict[str, Any], variables: Sequence[Any]) -> Unshared:
        """The inverse of `to_config`, over the variables of the model."""
        affines = [Affine(**affine) for affine in config["affines"]]
        return cls(variables, affines, config["others"], is_rounded=config["is_rounded"])


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The vectors of all affines one behind the other: many small tensors take time each.

    Neutral values stand for vectors that an affine has not.
    """

    affines: tuple[Affine, ...]
    shapes: list[tuple[int, ...]]
    gamma: Tensor
    beta: Tensor
    moving_mean: Tensor
    moving_variance: Tensor
    bias: Tensor

    @classmethod
    def read(
        cls, variables: Sequence[Any], affines: tuple[Affine, ...], instead: dict[int, Any]
    ) -> _Columns:
        """Reads them; `instead` holds tensors to take in place of variables, by their `id`."""
        first = [next(v for v in dataclasses.astuple(a) if v is not None) for a in affines]
        shapes = [tuple(variables[i].shape) for i in first]

        def column(name: str, neutral: float) -> Tensor:
            parts = []
            for affine, shape in zip(affines, shapes, strict=True):
                position = getattr(affine, name)
                if position is None:
                    parts.append(np.full(int(np.prod(shape)), neutral, np.float32))
                    continue
                variable = variables[position]
                value = ops.cast(instead.get(id(native(variable)), variable), "float32")
                parts.append(ops.reshape(value, (-1,)))
            return ops.concatenate(parts)

        neutral = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0}
        columns = {
            name: column(name, value) for name, value in {**neutral, "bias": 0.0}.items()
        }
        return cls(affines, shapes, **columns)

    def short_form(self, snap: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and offsets with the statistics in them, the share `snap` rounded."""
        scale = self.gamma / self._deviation()
        rounded = round_significant(scale, SCALE_BITS)
        scale = ops.where(self._has("gamma"), _between(scale, rounded, snap), scale)
        offset = self.beta - self._shift(scale)
        step = self._spread() * 2.0 ** (1 - SCALE_BITS)
        rounded = ops.round(offset / step) * step
        return scale, ops.where(self._has("beta"), _between(offset, rounded, snap), offset)

    def long_form(self, short: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The gamma and beta that do the same beside the present statistics."""
        scale, offset = short
        return scale * self._deviation(), offset + self._shift(scale)

    def split(self, scales: Tensor, offsets: Tensor) -> Iterator[tuple[Affine, Tensor, Tensor]]:
        """Each affine with its scale and offset, in its shape."""
        start = 0
        for affine, shape in zip(self.affines, self.shapes, strict=True):
            end = start + int(np.prod(shape))
            parts = (ops.reshape(column[start:end], shape) for column in (scales, offsets))
            yield affine, *parts
            start = end

    def _deviation(self) -> Tensor:
        """The standard deviation, in units of that beside which the short form stands."""
        epsilon = self._constant(lambda affine: affine.epsilon)
        return ops.sqrt((self.moving_variance + epsilon) / (1.0 + epsilon))

    def _shift(self, scale: Tensor) -> Tensor:
        """What scaling takes away from the offset: a·(mean - bias)."""
        root = self._constant(lambda affine: np.sqrt(1.0 + affine.epsilon))
        return scale / root * (self.moving_mean - self.bias)

    def _spread(self) -> Tensor:
        """The power of two next to the root mean square of each affine's scale."""
        owners = np.repeat(np.arange(len(self.affines)), self._sizes())
        squares = ops.segment_sum(ops.square(self.gamma), owners, len(self.affines))
        rms = ops.sqrt(squares / ops.convert_to_tensor(np.asarray(self._sizes(), np.float32)))
        return ops.take(power_of_two(np.float32(np.sqrt(2)) * rms), owners)

    def _has(self, name: str) -> Tensor:
        return self._constant(lambda affine: getattr(affine, name) is not None, np.bool_)

    def _constant(self, value: Any, dtype: Any = np.float32) -> Tensor:
        numbers = np.asarray([value(affine) for affine in self.affines], dtype)
        return ops.convert_to_tensor(np.repeat(numbers, self._sizes()))

    def _sizes(self) -> list[int]:
        return [int(np.prod(shape)) for shape in self.shapes]


def _between(value: Tensor, rounded: Tensor, snap: Tensor) -> Tensor:
    return (1.0 - snap) * value + snap * rounded


def _straight_through(variable: Any, tensor: Tensor) -> Tensor:
    """The tensor, with the variable's gradient."""
    value = ops.cast(variable, "float32")
    return ops.cast(value + ops.stop_gradient(tensor - value), variable.dtype)


def _affine_of(norm: Any, own: dict[int, int]) -> Affine:
    """A BatchNorm by positions; a vector in another model's weights counts as none."""
    positions = {
        name: None if variable is None else own.get(id(native(variable)))
        for name, variable in norm.vectors.items()
    }
    return Affine(**positions, epsilon=float(norm.layer.epsilon))


def _is_vector(variable: Any) -> bool:
    """Whether this is trained and no kernel."""
    is_float = bool(keras.backend.is_float_dtype(variable.dtype))
    return (
        variable.trainable and is_float and not is_kernel(variable) and np.prod(variable.shape)
    )


def _pairs(vectors: Sequence[tuple[int, Any]]) -> list[Affine]:
    """Scales of normalisation, each with the offset of its layer if there is one.

    An offset alone is none of them: nothing tells how exact it must be.
    """
    offsets = {_place(v): i for i, v in vectors if v.name in _OFFSETS}
    return [
        Affine(gamma=i, beta=offsets.get(_place(v))) for i, v in vectors if v.name in _SCALES
    ]


def _place(variable: Any) -> tuple[str, tuple[int, ...]]:
    """The layer of a variable, by its path, and its shape."""
    return variable.path.rpartition("/")[0], tuple(variable.shape)
