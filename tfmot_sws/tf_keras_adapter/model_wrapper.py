"""The wrapper of a tf_keras model: the counterpart of `tfmot_sws.SoftWeightSharing`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
import tf_keras

from tfmot_sws.models.selection import WeightChoice
from tfmot_sws.models.views import ModelView
from tfmot_sws.prior.trainable import GaussianMixturePrior
from tfmot_sws.tf_keras_adapter.forwarding import for_tf_keras
from tfmot_sws.tf_keras_adapter.variable_places import Replacement, find_places
from tfmot_sws.training.fit_arguments import fit_arguments
from tfmot_sws.training.shared_step import Sharing, choices_from_config
from tfmot_sws.training.train_size import count_examples


class TfKerasSharing(Sharing):
    """What wrapped tf_keras models and layers have in common.

    Mixtures and scalars are Keras 3 objects, kept out of sight of tf_keras; the
    tf.Variables beneath them are tracked by it, so that its optimizer trains them and its
    checkpoints hold them.
    """

    inner: Any
    add_loss: Any
    inner_view: ModelView
    _replacement: Replacement

    def _share(
        self,
        priors: list[GaussianMixturePrior],
        groups: list[list[int]],
        choices: list[WeightChoice],
        **settings: Any,
    ) -> None:
        """Takes over the mixtures; `inner` is built."""
        view = ModelView(self.inner)
        shared = [[view.weights[position] for position in group] for group in groups]
        places = find_places(self.inner)
        state = self._sharing_state(shared, priors, groups, choices, _scalar, **settings)
        # Past `__setattr__`: tf_keras would take a Keras 3 layer for one of its own.
        vars(self).update(
            state,
            inner_view=view,
            shared_variables=shared,
            _replacement=Replacement([places[id(v.value)] for group in shared for v in group]),
        )
        layers: list[keras.layers.Layer] = [*state["priors"], *state["held_gradients"]]
        scalars = [value for value in state.values() if isinstance(value, keras.Variable)]
        variables = [v for layer in layers for v in layer.variables]
        self.mixture_variables = [v.value for v in (*variables, *scalars)]

    def _call_inner(self, inputs: Any, training: bool | None, **kwargs: Any) -> Any:
        """Calls `inner` with snapped weights; adds the complexity loss in training."""
        snapped, losses = self._share_step(training=bool(training))
        tensors = [tf.convert_to_tensor(tensor) for _, tensor in snapped]
        with self._replacement(tensors):
            outputs = self.inner(inputs, **kwargs)
        for loss in losses:
            self.add_loss(loss)
        return outputs


@tf_keras.saving.register_keras_serializable(package="tfmot_sws")
class SoftWeightSharing(TfKerasSharing, tf_keras.Model):
    """A tf_keras model under soft weight-sharing; made by `apply_soft_weight_sharing`.

    It is used as the wrapper of Keras 3 models is, `tfmot_sws.SoftWeightSharing`, and has
    the same attributes.

    Args:
        inner: the user's model.
        priors: one a group.
        groups: positions in `inner.weights` of each group's shared variables.
        choices: what was decided about each of `inner.weights`.
        complexity_weight: tau, the value that schedules scale; `None` for the default.
        train_size: N, or `None` while unknown.
        preserve_sparsity: whether weights of kernels that are zero stay zero.
    """

    def __init__(
        self,
        inner: tf_keras.Model,
        priors: list[GaussianMixturePrior],
        groups: list[list[int]],
        choices: list[WeightChoice],
        *,
        name: str | None = None,
        **settings: Any,
    ) -> None:
        # The policy of `inner` stays its own: the mixture is computed in float32.
        name = name or f"soft_weight_sharing_{inner.name}"
        super().__init__(name=name, dtype="float32", autocast=False)
        self.inner = inner
        self._share(priors, groups, choices, **settings)
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to build: the wrapped model and the priors are built."""
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Calls the wrapped model with snapped weights; adds the losses in training."""
        return self._call_inner(inputs, training)

    def compile(self, optimizer: Any = "rmsprop", *args: Any, **kwargs: Any) -> None:
        """As `tf_keras.Model.compile`, with the loss scale that `inner` needs."""
        policy = self.inner.dtype_policy
        if getattr(policy, "name", None) == "mixed_float16":
            optimizer = tf_keras.optimizers.get(optimizer)
            if not isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer):
                optimizer = tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
        super().compile(optimizer, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as the saved one was, its optimizer's state included."""
        self.compile(**tf_keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def fit(self, *args: Any, **kwargs: Any) -> tf_keras.callbacks.History:
        """As `tf_keras.Model.fit`; finds the number of examples, and the callback.

        Callbacks of Keras 3 are taken beside those of tf_keras, `AnnealAndMerge` above
        all; without one the default one is added, with a warning.

        Raises:
            ValueError: when the number of training examples is needed and unknown.
        """
        arguments = fit_arguments(tf_keras.Model.fit, self, args, kwargs, _num_examples)
        arguments["callbacks"] = for_tf_keras(arguments["callbacks"])
        return super().fit(**arguments)

    def get_config(self) -> dict[str, Any]:
        """Configuration, the wrapped model's included."""
        return {
            "inner": tf_keras.saving.serialize_keras_object(self.inner),
            "priors": [prior.get_config() for prior in self.priors],
            **self._sharing_config(),
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> SoftWeightSharing:
        """The inverse of `get_config`."""
        config = dict(config)
        inner = tf_keras.layers.deserialize(config.pop("inner"), custom_objects)
        priors = [GaussianMixturePrior.from_config(prior) for prior in config.pop("priors")]
        choices = choices_from_config(config.pop("choices"))
        return cls(inner, priors, config.pop("groups"), choices, **config)


def _scalar(name: str, value: float) -> keras.Variable:
    return keras.Variable(
        float(value),
        dtype="float32",
        trainable=False,
        aggregation="only_first_replica",
        name=name,
    )


def _num_examples(x: Any, **how: Any) -> int:
    if isinstance(x, tf_keras.utils.Sequence):
        return len(x) * len(tf.nest.flatten(x[0])[0])
    return count_examples(x, **how)


def check_model(model: Any) -> None:
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
