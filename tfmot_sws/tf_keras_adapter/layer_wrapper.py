"""tf_keras models and layers put under soft weight-sharing, and layers taken out again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from tfmot_sws.models.selection import (
    WeightChoice,
    check_finite,
    choose_weights,
    group_by_scope,
)
from tfmot_sws.models.wrapped import NOT_TRAINABLE, is_wrapped
from tfmot_sws.tf_keras_adapter.model_wrapper import TfKerasSoftWeightSharing, TfKerasWrapped
from tfmot_sws.tf_keras_adapter.variable_places import find_places, only_replaceable
from tfmot_sws.tf_keras_adapter.views import ModelView
from tfmot_sws.training.apply import SharingSettings, check_wrappable
from tfmot_sws.training.shared_step import WeightSharing, share_weights
from tfmot_sws.training.strip import stripped_values


@tf_keras.saving.register_keras_serializable(package="tfmot_sws")
class SoftWeightSharingLayer(TfKerasWrapped, tf_keras.layers.Wrapper):
    """A tf_keras layer under soft weight-sharing, with a mixture of its own.

    Made by `apply_soft_weight_sharing(layer, train_size=...)`. A layer that has its
    weights already keeps them. One without weights to share is passed through.

    Args:
        layer: any layer that is no model.
        settings: of the mixture; `None` in a layer that is loaded.
        loaded: the configuration of `sharing`, in a layer that is loaded.
    """

    def __init__(
        self,
        layer: tf_keras.layers.Layer,
        settings: SharingSettings | None = None,
        *,
        loaded: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", f"soft_weight_sharing_{layer.name}")
        # The policy of `layer` stays its own: the mixture is computed in float32.
        super().__init__(layer, **{**kwargs, "dtype": "float32", "autocast": False})
        self.__dict__.update(sharing=None, _settings=settings, _loaded=loaded)
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
            sharing = self._new_sharing()
            if sharing.groups:
                self._share(sharing)

    def _new_sharing(self) -> WeightSharing:
        view, settings = ModelView(self.layer), self._settings
        if self._loaded is not None:
            return WeightSharing.from_config(self._loaded, view.weights)
        if not view.trainable_weights:
            choices = [
                WeightChoice(v.path, v.shape, False, NOT_TRAINABLE) for v in view.weights
            ]
        else:
            check_finite(self.layer)
            chosen = choose_weights(self.layer, settings.include, settings.exclude)
            choices = only_replaceable(self.layer, chosen)
        positions = group_by_scope(choices, "model")
        return share_weights(
            view,
            choices,
            positions,
            settings.make_prior,
            rounding=settings.rounding,
            replaceable=find_places(self.layer),
            **settings.of_step(),
        )

    def call(self, inputs: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the layer with snapped weights; adds the complexity loss in training."""
        if not self.groups:
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
        return {
            **super().get_config(),
            "settings": None if self._settings is None else self._settings.to_config(),
            "sharing": self.sharing.get_config() if self.sharing else self._loaded,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> SoftWeightSharingLayer:
        """The inverse of `get_config`."""
        config = dict(config)
        layer = tf_keras.layers.deserialize(config.pop("layer"), custom_objects)
        settings, loaded = config.pop("settings"), config.pop("sharing")
        settings = None if settings is None else SharingSettings.from_config(settings)
        return cls(layer, settings, loaded=loaded, **config)


def wrap(model: Any, settings: SharingSettings) -> Any:
    """A model, a layer, or each of a list of layers, under soft weight-sharing.

    Raises:
        RuntimeError: Keras does not run on TensorFlow.
        TypeError: it is no model or layer of tf_keras.
        ValueError: as of `apply_soft_weight_sharing`.
    """
    if isinstance(model, list):
        return [wrap(layer, settings) for layer in model]
    _check(model)
    if not isinstance(model, tf_keras.Model):
        return _wrap_layer(model, settings)
    check_wrappable(model)
    choices = only_replaceable(model, choose_weights(model, settings.include, settings.exclude))
    positions = group_by_scope(choices, settings.scope)
    check_finite(model)
    replaceable = find_places(model)
    settings = settings.aim(model, choices, replaceable)
    sharing = share_weights(
        ModelView(model),
        choices,
        positions,
        settings.make_prior,
        settings.least_bits,
        **settings.of_step(),
        rounding=settings.rounding,
        replaceable=replaceable,
    )
    return TfKerasSoftWeightSharing(model, sharing)


def _wrap_layer(layer: Any, settings: SharingSettings) -> Any:
    """The wrapped layer; input layers and wrapped ones stay as they are."""
    if is_wrapped(layer) or isinstance(layer, tf_keras.layers.InputLayer):
        return layer
    if settings.target is not None:
        raise ValueError(
            f"{settings.target} is the size of the file of a whole model; received layer "
            f"'{layer.name}'. Wrap the model, or state complexity_weight= for the layer."
        )
    if settings.train_size is None:
        raise ValueError(
            f"Layer '{layer.name}' is wrapped by itself, so the number of training examples "
            "must be given: apply_soft_weight_sharing(layer, train_size=len(x_train))."
        )
    return SoftWeightSharingLayer(layer, settings)


def _check(model: Any) -> None:
    """Raises unless soft weight-sharing can be applied to an object of tf_keras."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "tf_keras models need Keras on TensorFlow; the backend is "
            f"{keras.backend.backend()!r}. Set KERAS_BACKEND=tensorflow before importing keras."
        )
    if not isinstance(model, tf_keras.layers.Layer):
        raise TypeError(
            "A model or layer of tf_keras is expected; received " + type(model).__name__ + "."
        )


def strip_layers(model: tf_keras.Model) -> tf_keras.Model:
    """A copy of a Sequential or Functional model with plain layers, weights at means."""
    plain = tf_keras.models.clone_model(model, clone_function=_plain_layer)
    if not plain.built:
        plain.build(model.input_shape)
    _copy_stripped(model, plain)
    return plain


def layers_in_graph(model: tf_keras.Model) -> Iterator[tf_keras.layers.Layer]:
    """The layers of a Sequential or Functional model, and of such models that it holds."""
    if not isinstance(model, tf_keras.Sequential) and not model._is_graph_network:
        return
    for layer in model.layers:
        yield layer
        if isinstance(layer, tf_keras.Model):
            yield from layers_in_graph(layer)


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
