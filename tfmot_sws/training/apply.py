"""`apply_soft_weight_sharing`: from a pretrained model to the wrapper that trains it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Sequence
from typing import Any, Final

import keras

from tfmot_sws.arguments import check_numbers
from tfmot_sws.models.libraries import Library, library_of, view_of
from tfmot_sws.models.own_steps import check_steps
from tfmot_sws.models.rebuild import check_rebuildable
from tfmot_sws.models.selection import (
    Selector,
    WeightChoice,
    check_finite,
    choose_weights,
    group_by_scope,
)
from tfmot_sws.models.wrapped import check_plain, is_wrapped
from tfmot_sws.prior.hyperpriors import BetaHyperprior
from tfmot_sws.prior.options import PriorOptions
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.prior.uniform import MOST_POINTS, check_codebook
from tfmot_sws.training.file_meter import bits_to_spend
from tfmot_sws.training.first_look import look_at
from tfmot_sws.training.shared_step import share_weights
from tfmot_sws.training.size_target import SizeTarget
from tfmot_sws.training.unshared import Unshared
from tfmot_sws.training.wrapper import SoftWeightSharing

# K where neither it nor a target is given, and the most that a codebook holds.
_USUAL_COMPONENTS: Final = {"free": 16, "uniform": MOST_POINTS}
_MOST_COMPONENTS: Final = {"free": 256, "uniform": MOST_POINTS}
# Up to here the usual number does. A training begins with so many more bits than are to be
# left.
_FEW_BITS, _BITS_TO_SPARE = 2.0, 0.7
# kappa where a size is stated. tau follows from the size there: at a larger kappa it is
# smaller, the prior pulls less, and more values stay apart, by which the size is met.
_WIDTH_GAIN_OF_TARGETS = 15.0

# Those of bfloat16.
_MEAN_BITS: Final = 8


@dataclasses.dataclass(frozen=True)
class SharingSettings:
    """The arguments of `apply_soft_weight_sharing`; see there."""

    num_components: int | None
    complexity_weight: float | None
    train_size: int | None
    include: Selector | None
    exclude: Selector | None
    scope: str
    zero_proportion: float | BetaHyperprior | None
    options: PriorOptions | None
    preserve_sparsity: bool
    rounding: bool = True
    target: SizeTarget | None = None
    codebook: str = "free"
    # Not an argument: the entropy that a target needs at the beginning, in bits a weight.
    least_bits: float = 0.0

    def __post_init__(self) -> None:
        check_codebook(self.codebook, self.num_components)
        if self.target and self.complexity_weight is not None:
            raise ValueError(
                f"{self.target} decides about complexity_weight during the training; "
                f"received complexity_weight={self.complexity_weight} as well. Pass one of "
                "the two."
            )
        for name in ("complexity_weight", "train_size"):
            value = getattr(self, name)
            if value is None:
                continue
            check_numbers(**{name: value})
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite; received {value!r}.")

    def aim(
        self,
        model: Any,
        choices: Sequence[WeightChoice],
        replaceable: Container[int] | None = None,
    ) -> SharingSettings:
        """With as many components, and means as close, as the target needs.

        Args:
            model: the user's model.
            choices: what was decided about each of its weights.
            replaceable: as for `share_weights`.

        Raises:
            ValueError: no training can reach the target.
        """
        if self.target is None:
            return self
        weights = view_of(model).weights
        shared = [v for v, choice in zip(weights, choices, strict=True) if choice.shared]
        unshared = Unshared.of(model, weights, choices, replaceable, is_rounded=self.rounding)
        bits = bits_to_spend(self.target, model, shared, unshared)
        self._check_bits(bits)
        options = self.options or PriorOptions(width_gain=_WIDTH_GAIN_OF_TARGETS)
        least = dataclasses.replace(self, least_bits=bits + _BITS_TO_SPARE, options=options)
        if bits <= _FEW_BITS or self.num_components is not None:
            return least
        # Eight times as many values as the bits tell apart, for most weights take a few.
        wanted = 1 << (math.ceil(bits) + 3)
        most = _MOST_COMPONENTS[self.codebook]
        return dataclasses.replace(least, num_components=min(wanted, most))

    def _check_bits(self, bits: float) -> None:
        """Raises `ValueError` where a grid has too few values for as many bits a weight."""
        most = math.log2(MOST_POINTS)
        if self.codebook == "uniform" and bits > most:
            raise ValueError(
                f"{self.target} leaves {bits:.1f} bits to each shared weight, but a uniform "
                f"codebook has at most {MOST_POINTS} values, which take {most:.1f} bits. Ask "
                "for a smaller file, or take codebook='free'."
            )

    def make_prior(self, num_tensors: int = 1) -> GaussianMixturePrior:
        """A mixture for a number of tensors that has seen no weights yet."""
        return GaussianMixturePrior(
            _USUAL_COMPONENTS[self.codebook]
            if self.num_components is None
            else self.num_components,
            zero_proportion=self.zero_proportion,
            options=self.options,
            num_tensors=num_tensors,
            mean_bits=_MEAN_BITS if self.rounding else None,
            codebook=self.codebook,
        )

    def of_step(self) -> dict[str, Any]:
        """Those that the training step depends on, as `WeightSharing` takes them."""
        names = ("complexity_weight", "train_size", "preserve_sparsity", "target")
        return {name: getattr(self, name) for name in names}

    def to_config(self) -> dict[str, Any]:
        """Plain values; predicates are left out, which no file can hold."""
        selectors = {"include": self.include, "exclude": self.exclude}
        return {
            "prior": self.make_prior().get_config(),
            **{k: s if isinstance(s, str) else None for k, s in selectors.items()},
            "scope": self.scope,
            "rounding": self.rounding,
            **self.of_step(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SharingSettings:
        """The inverse of `to_config`."""
        config = dict(config)
        prior = GaussianMixturePrior.from_config(config.pop("prior"))
        names = ("num_components", "zero_proportion", "options", "codebook")
        return cls(**{name: getattr(prior.form, name) for name in names}, **config)


def apply_soft_weight_sharing(  # noqa: PLR0913 - tfmot's functions take as many
    model: keras.Model,
    *,
    target_ratio: float | None = None,
    target_size: float | str | None = None,
    target_bits: float | None = None,
    num_components: int | None = None,
    complexity_weight: float | None = None,
    train_size: int | None = None,
    include: Selector | None = None,
    exclude: Selector | None = None,
    scope: str = "layer",
    zero_proportion: float | BetaHyperprior | None = None,
    options: PriorOptions | None = None,
    preserve_sparsity: bool = False,
    rounding: bool = True,
    codebook: str = "free",
) -> SoftWeightSharing:
    """Wraps a pretrained model so that ordinary training compresses it.

    Compile and fit the result as any Keras model, with an `AnnealAndMerge` callback, then
    call `strip_soft_weight_sharing`. The wrapper trains the very variables of `model`.

    The training loss is the model's own plus (tau / N) times the complexity loss
    -sum_i log p(w_i) - sum_k log Gamma(lambda_k) - log Beta(pi_0). p is a Gaussian mixture
    over the shared weights w_i with one component fixed at zero, lambda_k are its precisions,
    and N is the number of training examples. The last term is there if pi_0, the zero
    component's proportion, is learned.

    Args:
        model: a built Keras 3 or tf_keras model with pretrained weights: Sequential,
            Functional or subclassed. Of tf_keras also a single layer, which need not be
            built, or a list of layers, as tfmot takes them: each gets a mixture of its own.
        target_ratio: how many times smaller the `.sws` file is to be than the float32
            weights, above 1. `fit` then chooses tau as it goes. At most one target can be
            stated; without one the default tau decides.
        target_size: the size of the file, in bytes or as text such as "50 kB".
        target_bits: the bits that a shared weight takes in the file, in (0, 8].
        num_components: K, from 2 to 256: the most values a shared weight can end with.
            `None`: 16, or more where a target asks for more than two bits a weight.
        complexity_weight: tau > 0, in place of a target; larger makes the model smaller and
            less accurate. `None`: from the numbers of training examples and of shared
            weights, at the first `fit`; see docs/how_it_works.md.
        train_size: N >= 1. `None`: worked out from the data at the first `fit`; for single
            layers it must be given.
        include: which variables to share: a regular expression searched in their paths, or
            a predicate on them. `None`: all trainable kernels and embeddings, and the
            biases that lie within the range of the kernels.
        exclude: likewise, which to leave out.
        scope: "layer" for one mixture a layer, "model" for one over all shared weights, as
            in the paper.
        zero_proportion: pi_0, the zero component's share, in (0, 1), or a
            `BetaHyperprior` to learn it. `None`: all proportions follow the usage, pi_0
            being at least 0.5.
        options: widths, hyperpriors and learning rates of the mixture. `None`: the defaults of
            `PriorOptions`; with a target, its `width_gain` is 15.
        preserve_sparsity: keep weights of kernels that are exactly zero, as after
            `tfmot.sparsity.keras.strip_pruning`, at zero: they get no gradient, and belong
            to the zero component. Biases train on from zero as ever.
        rounding: round the means to 8 significant bits, and vectors that are not shared
            (scales and offsets of normalisation, other biases) to 5 to 8, while training
            snaps; see docs/how_it_works.md. False: they stay float32.
        codebook: "free": each mean is trained by itself. "uniform": the values of a mixture
            are integers from -7 to 7 times one trained step, so that
            `export(..., weights="int4_codebook")` loses nothing and a codebook costs a few
            bytes of a `.sws` file. K is then at most 15, the default.

    Returns:
        The wrapped model, not compiled. Its predictions are those of `model`. For a layer
        the wrapped layer, for a list a list.

    Raises:
        TypeError: `model` is neither a Keras 3 nor a tf_keras model, or holds a wrapped one.
        RuntimeError: it is of tf_keras, and Keras does not run on TensorFlow.
        ValueError: it is not built, already wrapped, holds NaN or infinite weights, has
            nothing to share or a `train_step` of its own, cannot be rebuilt from its
            configuration, an argument is out of range, or no training can reach the target.

    Warns:
        SoftWeightSharingWarning: the weights are clustered already, or were trained under
            another wrapper, as when a notebook's cell is run twice; most of them are frozen;
            or the stated size is hardly above the smallest, or leaves them little.

    Example:
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> shared = apply_soft_weight_sharing(dense, num_components=4)
        >>> for choice in shared.weight_choices:
        ...     print(choice.path.partition("/")[2], choice.shape, choice.reason)
        head/kernel (4, 3) kernel
        head/bias (3,) bias, within the range of the kernels

    References:
        Ullrich, Meeds, Welling, "Soft Weight-Sharing for Neural Network Compression",
        ICLR 2017.
    """
    settings = SharingSettings(
        num_components,
        complexity_weight,
        train_size,
        include,
        exclude,
        scope,
        zero_proportion,
        options,
        preserve_sparsity,
        rounding,
        SizeTarget.of(target_ratio, target_size, target_bits),
        codebook,
    )
    wrap = _library_of(model).wrap or _wrap
    wrapper = wrap(model, settings)
    if is_wrapped(wrapper) and isinstance(model, _library_of(model).model):
        look_at(model, wrapper)
    return wrapper


def _library_of(model: Any) -> Library:
    """The library of a model, or of the first of a list of layers."""
    return library_of(model[0] if isinstance(model, list) and model else model)


def _wrap(model: Any, settings: SharingSettings) -> SoftWeightSharing:
    """The wrapper of a Keras 3 model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"A keras.Model is expected; received {type(model).__name__}. Wrap a single "
            "layer in keras.Sequential first."
        )
    check_wrappable(model)
    choices = choose_weights(model, settings.include, settings.exclude)
    positions = group_by_scope(choices, settings.scope)
    check_finite(model)
    settings = settings.aim(model, choices)
    sharing = share_weights(
        model,
        choices,
        positions,
        settings.make_prior,
        settings.least_bits,
        rounding=settings.rounding,
        **settings.of_step(),
    )
    return SoftWeightSharing(model, sharing)


def check_wrappable(model: Any) -> None:
    """Raises an error for a model that could be trained or stripped only wrongly.

    Raises:
        TypeError: it holds wrapped layers or a wrapped model.
        ValueError: it is wrapped or not built, or has steps of its own.
    """
    if is_wrapped(model):
        raise ValueError(
            f"Model '{model.name}' is already under soft weight-sharing, so it can be "
            "fitted as it is. To start again, load the dense model and wrap that: this "
            "wrapper trains the weights of the model that it was made from."
        )
    check_plain(model)
    if not model.built or not model.weights:
        raise ValueError(
            f"Model '{model.name}' is not built, so it has no weights yet. Call it once on "
            "a batch of data, or call model.build(input_shape)."
        )
    check_steps(model)
    check_rebuildable(model)
