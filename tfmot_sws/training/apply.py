"""`apply_soft_weight_sharing`: from a pretrained model to the wrapper that trains it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfmot_sws.models.selection import Selector, check_finite, choose_weights, group_by_scope
from tfmot_sws.models.views import is_layer_of_tf_keras, is_tf_keras, is_wrapped, view_of
from tfmot_sws.prior.hyperpriors import BetaHyperprior
from tfmot_sws.prior.options import PriorOptions
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.training.wrapper import SoftWeightSharing


def apply_soft_weight_sharing(  # noqa: PLR0913 - tfmot's functions take as many
    model: keras.Model,
    *,
    num_components: int = 16,
    complexity_weight: float | None = None,
    train_size: int | None = None,
    include: Selector | None = None,
    exclude: Selector | None = None,
    scope: str = "model",
    zero_proportion: float | BetaHyperprior = 0.99,
    options: PriorOptions | None = None,
    preserve_sparsity: bool = False,
) -> SoftWeightSharing:
    """Wraps a pretrained model so that ordinary training compresses it.

    Compile and fit the result as any Keras model, with an `AnnealAndMerge` callback, then
    call `strip_soft_weight_sharing`. The wrapper trains the very variables of `model`.

    The training loss is the model's own plus (tau / N) times the complexity loss
    -sum_i log p(w_i) - sum_k log Gamma(lambda_k), where p is a Gaussian mixture with one
    component fixed at zero, and N the number of training examples.

    Args:
        model: a built Keras 3 or tf_keras model with pretrained weights: Sequential,
            Functional or subclassed. Of tf_keras also a single layer, which need not be
            built, or a list of layers, as tfmot takes them: each gets a mixture of its own.
        num_components: K, from 2 to 256: the most values a shared weight can end with.
        complexity_weight: tau > 0; larger makes the model smaller and less accurate.
            `None`: from the number of training examples and the learning rate, at the
            first `fit`; see `default_complexity_weight`.
        train_size: N >= 1. `None`: worked out from the data at the first `fit`; for single
            layers it must be given.
        include: which variables to share: a regular expression searched in their paths, or
            a predicate on them. `None`: all trainable kernels and embeddings, and the
            biases that lie within the range of the kernels.
        exclude: likewise, which to leave out.
        scope: "model" for one mixture over all shared weights, "layer" for one a layer.
        zero_proportion: pi_0, the zero component's share, in (0, 1), or a
            `BetaHyperprior` to learn it.
        options: widths, hyperpriors and learning rates of the mixture.
        preserve_sparsity: keep weights of kernels that are exactly zero, as after
            `tfmot.sparsity.keras.strip_pruning`, at zero: they get no gradient, and belong
            to the zero component. Biases train on from zero as ever.

    Returns:
        The wrapped model, not compiled. Its predictions are those of `model`. For a layer
        the wrapped layer, for a list a list.

    Raises:
        TypeError: `model` is neither a Keras 3 nor a tf_keras model.
        RuntimeError: it is of tf_keras, and Keras does not run on TensorFlow.
        ValueError: it is not built, already wrapped, holds NaN or infinite weights, has
            nothing to share, or an argument is out of range.

    Example:
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> shared = apply_soft_weight_sharing(dense, num_components=4)
        >>> for choice in shared.shared_weights:
        ...     print(choice.path.partition("/")[2], choice.shape, choice.reason)
        head/kernel (4, 3) kernel
        head/bias (3,) bias, within the range of the kernels

    References:
        Ullrich, Meeds, Welling, "Soft Weight-Sharing for Neural Network Compression",
        ICLR 2017.
    """
    if complexity_weight is not None:
        _check_positive("complexity_weight", complexity_weight)
    if train_size is not None:
        _check_positive("train_size", train_size)

    def make_prior() -> GaussianMixturePrior:
        return GaussianMixturePrior(
            num_components, zero_proportion=zero_proportion, options=options
        )

    if is_layer_of_tf_keras(model):
        from tfmot_sws.tf_keras_adapter.layer_wrapper import LayerSettings, wrap_layers

        settings = LayerSettings(
            complexity_weight, train_size, include, exclude, preserve_sparsity
        )
        return wrap_layers(model, make_prior, settings)
    _check_model(model)
    view = view_of(model)
    choices = choose_weights(view, include, exclude)
    wrapper: Any = SoftWeightSharing
    if is_tf_keras(model):
        from tfmot_sws.tf_keras_adapter import model_wrapper as tf_keras_wrapper
        from tfmot_sws.tf_keras_adapter import variable_places as places

        wrapper = tf_keras_wrapper.SoftWeightSharing
        choices = places.only_replaceable(model, choices)
    groups = group_by_scope(choices, scope)
    check_finite(view)
    priors = [make_prior() for _ in groups]
    wrapped = wrapper(
        model,
        priors,
        groups,
        choices,
        complexity_weight=complexity_weight,
        train_size=train_size,
        preserve_sparsity=preserve_sparsity,
    )
    for prior, variables in zip(priors, wrapped.shared_variables, strict=True):
        prior.fit_initial([ops.convert_to_numpy(v) for v in variables])
    return wrapped


def _check_model(model: Any) -> None:
    if is_wrapped(model):
        raise ValueError(
            f"Model '{model.name}' is already under soft weight-sharing. Fit it, or strip "
            "it with strip_soft_weight_sharing before wrapping again."
        )
    if is_tf_keras(model):
        from tfmot_sws.tf_keras_adapter.model_wrapper import check_model

        check_model(model)
    elif not isinstance(model, keras.Model):
        raise TypeError(
            f"A keras.Model is expected; received {type(model).__name__}. Wrap a single "
            "layer in keras.Sequential first."
        )
    if not model.built or not model.weights:
        raise ValueError(
            f"Model '{model.name}' is not built, so it has no weights yet. Call it once on "
            "a batch of data, or call model.build(input_shape)."
        )


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be above 0 and finite; received {value!r}.")
