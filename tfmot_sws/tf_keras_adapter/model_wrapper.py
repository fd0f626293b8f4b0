"""Wraps tf_keras models: the counterpart of `tfmot_sws.SoftWeightSharing`.

It shares the mathematics with that wrapper (`WeightSharing`, the priors of Keras 3), but not
the call: tf_keras has no stateless one, so tensors take the places of the variables in the
layers' attributes during the call. All other code reads the variables through `views`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras

from tfmot_sws.backend.replicas import one_replica_spared
from tfmot_sws.models.wrapped import (
    Wrapped,
    check_same_weights,
    check_saved_as,
    check_unchanged,
)
from tfmot_sws.tf_keras_adapter.forwarding import TfKerasProgressBar, for_tf_keras
from tfmot_sws.tf_keras_adapter.variable_places import Replacement, find_places
from tfmot_sws.tf_keras_adapter.views import ModelView
from tfmot_sws.training.fit_arguments import fit_arguments
from tfmot_sws.training.shared_step import WeightSharing
from tfmot_sws.training.train_size import count_examples


class TfKerasWrapped(Wrapped):
    """Base of wrapped tf_keras models and layers.

    `sharing` is a layer of Keras 3, kept out of sight of tf_keras; the tf.Variables beneath
    it are tracked by tf_keras, so that its optimizer trains them and its checkpoints hold
    them.
    """

    add_loss: Any
    _replacement: Replacement

    def _share(self, sharing: WeightSharing) -> None:
        """Takes over the mixtures; `inner` is built."""
        places = find_places(self.inner)
        variables = sharing.taken_variables
        # Past `__setattr__`: tf_keras would take a Keras 3 layer for one of its own.
        vars(self).update(
            sharing=sharing,
            _replacement=Replacement([places[id(v.native)] for v in variables]),
        )
        self.mixture_variables = [v.value for v in sharing.variables]

    def _call_inner(self, inputs: Any, training: bool | None, **kwargs: Any) -> Any:
        """Calls `inner` with snapped weights; adds the complexity loss in training."""
        measured = self.sharing.is_measured
        # AutoGraph would take seconds to rewrite it, and no `if` of it reads a tensor.
        step = tf.autograph.experimental.do_not_convert(self.sharing.step)
        snapped, losses = step(training=bool(training) and not measured)
        tensors = [tf.convert_to_tensor(tensor) for _, tensor in snapped]
        with self._replacement(tensors):
            outputs = self._outputs(inputs, **kwargs)
        for loss in losses:
            self.add_loss(loss)
        # Past `__setattr__`, which would track it.
        vars(self)["num_added"] = len(losses)
        return outputs

    def _outputs(self, inputs: Any, **kwargs: Any) -> Any:
        try:
            return self.inner(inputs, **kwargs)
        except AttributeError as error:
            if "'assign" not in str(error):
                raise
            raise ValueError(
                f"A layer of '{self.inner.name}' assigns its own weight while it is called: "
                f"{str(error).strip()} Shared weights hold few values, which such a layer "
                "would scatter. Leave it out: apply_soft_weight_sharing(model, exclude=...)."
            ) from error


@tf_keras.saving.register_keras_serializable(package="tfmot_sws")
class TfKerasSoftWeightSharing(TfKerasWrapped, tf_keras.Model):
    """A tf_keras model under soft weight-sharing; made by `apply_soft_weight_sharing`.

    It is used as the wrapper of Keras 3 models is, `tfmot_sws.SoftWeightSharing`, and has
    the same attributes.

    Args:
        inner: the user's model.
        sharing: the mixtures over its weights.
    """

    def __init__(
        self, inner: tf_keras.Model, sharing: WeightSharing, *, name: str | None = None
    ) -> None:
        # The policy of `inner` stays its own: the mixture is computed in float32.
        name = name or f"soft_weight_sharing_{inner.name}"
        super().__init__(name=name, dtype="float32", autocast=False)
        self.inner = inner
        # By which losses and metrics may be given.
        self.output_names = inner.output_names
        self.__dict__.update(batches=[], num_added=0)
        self._share(sharing)
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

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> Any:
        """As `tf_keras.Model.compute_loss`.

        Raises:
            ValueError: there is no loss but the complexity loss.
        """
        if not self.loss and self.num_added and len(self.losses) == self.num_added:
            raise ValueError(
                f"Model '{self.name}' has no loss but the complexity loss, which alone would "
                "ruin the network. Call compile(loss=...), or add_loss in a layer's call."
            )
        return super().compute_loss(x, y, y_pred, sample_weight)

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
        arguments = fit_arguments(
            tf_keras.Model.fit, self, args, kwargs, _num_examples, TfKerasProgressBar
        )
        arguments["callbacks"] = for_tf_keras(arguments["callbacks"])
        try:
            return super().fit(**arguments)
        finally:
            # After an interruption the callback's on_train_end is not called.
            self.sharing.is_renewed = False

    def train_step(self, data: Any) -> Any:
        """As of `tf_keras.Model`; without what TensorFlow would never forget of it."""
        with one_replica_spared(self.optimizer):
            return super().train_step(data)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `tf_keras.Model.train_on_batch`, with the present weights' complexity loss."""
        check_unchanged(self)
        self.sharing.renew(counting=True)
        return super().train_on_batch(*args, **kwargs)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """As `tf_keras.Model.save`.

        Raises:
            ValueError: the file would be HDF5, from which a wrapper cannot be loaded, or
                weights were added after wrapping.
        """
        check_saved_as(filepath)
        check_same_weights(self)
        return super().save(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Configuration, the wrapped model's included."""
        return {
            "inner": tf_keras.saving.serialize_keras_object(self.inner),
            "sharing": self.sharing.get_config(),
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> TfKerasSoftWeightSharing:
        """The inverse of `get_config`."""
        inner = tf_keras.layers.deserialize(config["inner"], custom_objects)
        sharing = WeightSharing.from_config(config["sharing"], ModelView(inner).weights)
        return cls(inner, sharing, name=config["name"])


def _num_examples(x: Any, **how: Any) -> int:
    if isinstance(x, tf_keras.utils.Sequence):
        return len(x) * len(tf.nest.flatten(x[0])[0])
    return count_examples(x, **how)
