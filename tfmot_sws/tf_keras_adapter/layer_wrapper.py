"""Single tf_keras layers under soft weight-sharing, as tfmot wraps them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

from tfmot_sws.models.selection import Selector, WeightChoice, check_finite, choose_weights
from tfmot_sws.models.views import ModelView, is_wrapped
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.tf_keras_adapter.model_wrapper import TfKerasSharing, check_model
from tfmot_sws.tf_keras_adapter.variable_places import only_replaceable
from tfmot_sws.training.strip import stripped_values


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """What `apply_soft_weight_sharing` was told; see there."""

    complexity_weight: float | None
    train_size: int | None
    include: Selector | None = None
    exclude: Selector | None = None
    preserve_sparsity: bool = False


@tf_keras.saving.register_keras_serializable(package="tfmot_sws")
class SoftWeightSharingLayer(TfKerasSharing, tf_keras.layers.Wrapper):
    """A tf_keras layer under soft weight-sharing, with a mixture of its own.

    Made by `apply_soft_weight_sharing(layer, train_size=...)`. A layer that has its
    weights already keeps them. One without weights to share is passed through.

    Args:
        layer: any layer that is no model.
        prior: its mixture.
        settings: the rest.
        shared: positions of the shared ones in `layer.weights`, in a layer that is loaded.
    """

    def __init__(
        self,
        layer: tf_keras.layers.Layer,
        prior: GaussianMixturePrior,
        settings: LayerSettings,
        *,
        shared: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", f"soft_weight_sharing_{layer.name}")
        # The policy of `layer` stays its own: the mixture is computed in float32.
        super().__init__(layer, **{**kwargs, "dtype": "float32", "autocast": False})
        self.__dict__.update(_prior=prior, _settings=settings, _loaded=shared, priors=[])
        self.supports_masking = layer.supports_masking
        # A Sequential model learns its input from its first layer.
        if hasattr(layer, "_batch_input_shape"):
            self._batch_input_shape = layer._batch_input_shape

    @property
    def inner(self) -> tf_keras.layers.Layer:
        """The user's layer."""
        return self.layer

    def build(self, input_shape: Any = None) -> None:
        """Builds the layer, and lays the mixture over its weights."""
        super().build(input_shape)
        # Out of the graph in which tf_keras may build.
        with tf.init_scope():
            choices = self._choose()
            group = [i for i, choice in enumerate(choices) if choice.shared]
            settings = self._settings
            self._share(
                [self._prior] if group else [],
                [group] if group else [],
                choices,
                complexity_weight=settings.complexity_weight,
                train_size=settings.train_size,
                preserve_sparsity=settings.preserve_sparsity,
            )
            for prior, variables in zip(self.priors, self.shared_variables, strict=True):
                prior.fit_initial([v.numpy() for v in variables])

    def _choose(self) -> list[WeightChoice]:
        view, settings = ModelView(self.layer), self._settings
        if self._loaded is not None:
            return [
                WeightChoice(v.path, v.shape, i in self._loaded, "as it was saved")
                for i, v in enumerate(view.weights)
            ]
        if not view.trainable_weights:
            return [WeightChoice(v.path, v.shape, False, "not trainable") for v in view.weights]
        check_finite(view)
        choices = choose_weights(view, settings.include, settings.exclude)
        return only_replaceable(self.layer, choices)

    def call(self, inputs: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the layer with snapped weights; adds the complexity loss in training."""
        if not self.priors:
            return self.layer(inputs, **kwargs)
        return self._call_inner(inputs, training, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """That of the layer."""
        return self.layer.compute_mask(inputs, mask)

    def get_config(self) -> dict[str, Any]:
        """Configuration, the wrapped layer's included."""
        settings = self._settings
        return {
            **super().get_config(),
            "prior": self._prior.get_config(),
            "complexity_weight": settings.complexity_weight,
            "train_size": settings.train_size,
            "preserve_sparsity": settings.preserve_sparsity,
            "shared": [i for group in self._groups for i in group] if self.built else None,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> SoftWeightSharingLayer:
        """The inverse of `get_config`."""
        config = dict(config)
        layer = tf_keras.layers.deserialize(config.pop("layer"), custom_objects)
        prior = GaussianMixturePrior.from_config(config.pop("prior"))
        names = ("complexity_weight", "train_size", "preserve_sparsity")
        settings = LayerSettings(**{name: config.pop(name) for name in names})
        return cls(layer, prior, settings, **config)


def wrap_layers(
    layers: Any, make_prior: Callable[[], GaussianMixturePrior], settings: LayerSettings
) -> Any:
    """A layer, or each of a list, wrapped; input layers and wrapped ones stay as they are.

    Raises:
        ValueError: the number of training examples is not given.
    """
    if isinstance(layers, list):
        return [wrap_layers(layer, make_prior, settings) for layer in layers]
    check_model(layers)
    if is_wrapped(layers) or isinstance(layers, tf_keras.layers.InputLayer):
        return layers
    if settings.train_size is None:
        raise ValueError(
            f"Layer '{layers.name}' is wrapped by itself, so the number of training examples "
            "must be given: apply_soft_weight_sharing(layer, train_size=len(x_train))."
        )
    return SoftWeightSharingLayer(layers, make_prior(), settings)


def strip_layers(model: tf_keras.Model) -> tf_keras.Model:
    """A copy of a Sequential or Functional model with plain layers, weights at means."""
    plain = tf_keras.models.clone_model(model, clone_function=_plain_layer)
    if not plain.built:
        plain.build(model.input_shape)
    _copy_stripped(model, plain)
    return plain


def _plain_layer(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
    if isinstance(layer, tf_keras.Model):
        return tf_keras.models.clone_model(layer, clone_function=_plain_layer)
    inner = layer.inner if is_wrapped(layer) else layer
    return type(inner).from_config(inner.get_config())


def _copy_stripped(source: tf_keras.Model, target: tf_keras.Model) -> None:
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(old, tf_keras.Model):
            _copy_stripped(old, new)
        else:
            new.set_weights(stripped_values(old) if is_wrapped(old) else old.get_weights())
