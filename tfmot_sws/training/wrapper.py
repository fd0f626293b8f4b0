"""The wrapper of a Keras 3 model: it trains, saves and loads as any Keras model does."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import keras

from tfmot_sws.backend.compiling import compiled_step
from tfmot_sws.backend.replicas import one_replica_spared
from tfmot_sws.models.own_steps import has_own
from tfmot_sws.models.wrapped import (
    Wrapped,
    check_same_weights,
    check_saved_as,
    check_unchanged,
)
from tfmot_sws.training.fit_arguments import fit_arguments
from tfmot_sws.training.inner_scope import InnerScope, LastCalls
from tfmot_sws.training.replica_losses import ReplicaLosses
from tfmot_sws.training.shared_step import WeightSharing

Tensor = Any


@keras.saving.register_keras_serializable(package="tfmot_sws")
class SoftWeightSharing(Wrapped, keras.Model):
    """A model under soft weight-sharing; made by `apply_soft_weight_sharing`.

    There is one wrapper around the model and none around layers: it calls the user's model
    under a `keras.StatelessScope` with snapped tensors in place of the shared variables. So
    every type of layer works, and subclassed, nested and recurrent models take one path.

    It calls the wrapped model with its shared weights moved towards their components'
    means by the share `snap`, and in training adds the complexity loss. It trains,
    saves, loads and resumes as any Keras model.

    Args:
        inner: the user's model.
        sharing: the mixtures over its weights.

    Attributes:
        groups: records of each mixture: `prior`, `variables`, `assignments()`.
        weight_choices: `WeightChoice` records: what is shared, what not, and why.
        complexity_weight: variable, tau as it is at present.
        snap: variable, the share of the way from w to its mean, from 0 to 1.
        train_size: N, or `None` while unknown.
    """

    def __init__(
        self, inner: keras.Model, sharing: WeightSharing, *, name: str | None = None
    ) -> None:
        name = name or f"soft_weight_sharing_{inner.name}"
        super().__init__(name=name, dtype=inner.dtype_policy, autocast=False)
        self.inner = inner
        self.sharing = sharing
        self.supports_masking = True
        # Past `__setattr__`, which would track them.
        self.__dict__.update(sensitivity_program=None, batches=[])
        self._replica_losses = ReplicaLosses()
        self._last_calls = LastCalls()
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to build: the wrapped model and the priors are built."""
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Calls the wrapped model with snapped weights; adds the losses in training."""
        with compiled_step(bool(self.compiled and self.jit_compile)):
            snapped, complexity = self.sharing.step(training=bool(training))
        scope = InnerScope(snapped)
        with scope:
            outputs = self.inner(inputs)
        losses = [*scope.losses, *complexity]
        self._replica_losses.note(losses)
        for loss in losses:
            self.add_loss(loss)
        if has_own(self.inner, "compute_loss"):
            self._last_calls.keep(outputs, scope, complexity)
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """The error loss, plus in training the complexity loss.

        Raises:
            ValueError: in training, there is no error loss.
        """
        if not has_own(self.inner, "compute_loss"):
            if training and self.compiled and self.loss is None:
                self._check_losses()
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        scope, complexity = self._last_calls.take(y_pred) or (self._new_scope(), [])
        with scope:
            error = self.error_loss(x, y, y_pred, sample_weight, training)
        return error + sum(complexity) if complexity else error

    def _check_losses(self) -> None:
        # The last of them is the complexity loss.
        if len(self.losses) < 2:
            raise ValueError(
                f"Model '{self.name}' has no loss but the complexity loss, which alone would "
                "ruin the network. Call compile(loss=...), or add_loss in a layer's call."
            )

    def error_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool
    ) -> Tensor:
        """The loss without the complexity, as the wrapped model has it."""
        if not has_own(self.inner, "compute_loss"):
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        compute = self.inner.compute_loss
        # Keras has the argument since 3.3.
        takes_training = "training" in inspect.signature(compute).parameters
        options = {"training": training} if takes_training else {}
        return compute(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, **options)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """As the wrapped model does it; "loss" is that of the training."""
        if not has_own(self.inner, "compute_metrics"):
            return super().compute_metrics(x, y, y_pred, sample_weight)
        # On JAX a model has no weights there.
        on_jax = keras.backend.backend() == "jax"
        with contextlib.nullcontext() if on_jax else self._new_scope():
            logs = self.inner.compute_metrics(x, y, y_pred, sample_weight)
        return self._with_loss(logs)

    def get_metrics_result(self) -> dict[str, Any]:
        """As of any Keras model; "loss" is that of the training."""
        return self._with_loss(super().get_metrics_result())

    def _with_loss(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The wrapped model may have a metric of the same name, which nothing updates."""
        own = super().metrics
        return {**logs, "loss": own[0].result()} if self.compiled and own else logs

    @property
    def metrics(self) -> list[Any]:
        """Its own, and those that the wrapped model fills."""
        own, inner = super().metrics, self.inner
        methods = ("compute_loss", "compute_metrics", "metrics")
        if any(has_own(inner, method) for method in methods):
            # Of what both are compiled with, one of them is never filled.
            both = [
                metric for metric in [*own, *inner.metrics] if getattr(metric, "built", True)
            ]
        else:
            # Not those with which it was compiled before.
            both = [*own, *inner._metrics]
        return list({id(metric): metric for metric in both}.values())

    def _new_scope(self) -> InnerScope:
        return InnerScope(self.sharing.step(training=False)[0])

    @property
    def losses(self) -> list[Tensor]:
        """As of any Keras layer, and within `tf.distribute` those of one replica."""
        return self._replica_losses.without_others(super().losses)

    @property
    def output_names(self) -> list[str]:
        """Those of the wrapped model, by which losses and metrics may be given."""
        return self.inner.output_names

    def compile(self, *args: Any, jit_compile: bool | str = "auto", **kwargs: Any) -> None:
        """As `keras.Model.compile`, except for what "auto" means on a CPU.

        TensorFlow's XLA slows convolutions on a CPU down twofold, so there "auto" leaves
        the step as it is. The prior is compiled in any case.
        """
        if jit_compile == "auto" and not _whole_step_gains_from_jit():
            jit_compile = False
        super().compile(*args, jit_compile=jit_compile, **kwargs)
        self._compile_inner(*args, **kwargs)
        # It was traced with the loss of before.
        self.__dict__["sensitivity_program"] = None

    def _compile_inner(self, *args: Any, **kwargs: Any) -> None:
        """Has the wrapped model know loss and metrics where it computes them itself."""
        methods = [m for m in ("compute_loss", "compute_metrics") if has_own(self.inner, m)]
        if not methods:
            return
        if not has_own(self.inner, "compile"):
            self.inner.compile(*args, **kwargs)
        elif not self.inner.compiled:
            raise ValueError(
                f"Model '{self.inner.name}' ({type(self.inner).__name__}) has its own compile "
                f"beside {methods[0]}. Call it before apply_soft_weight_sharing."
            )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as the saved one was, its optimizer's state included."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`; finds the number of examples, and the callback.

        Without an `AnnealAndMerge` among the callbacks the default one is added, with a
        warning.

        Raises:
            ValueError: when the number of training examples is needed and unknown.
            NotImplementedError: under `tf.distribute.MultiWorkerMirroredStrategy`.
        """
        _check_strategy(self)
        try:
            return super().fit(**fit_arguments(keras.Model.fit, self, args, kwargs))
        finally:
            # After an interruption the callback's on_train_end is not called.
            self.sharing.is_renewed = False

    def train_step(self, *args: Any) -> Any:
        """As of `keras.Model`; without what TensorFlow would never forget of it."""
        with one_replica_spared(self.optimizer):
            return super().train_step(*args)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`, with the complexity loss of the present weights."""
        check_unchanged(self)
        self.sharing.renew(counting=True)
        return super().train_on_batch(*args, **kwargs)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.save`.

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
            "inner": keras.saving.serialize_keras_object(self.inner),
            "sharing": self.sharing.get_config(),
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> SoftWeightSharing:
        """The inverse of `get_config`."""
        inner = keras.saving.deserialize_keras_object(config["inner"], custom_objects)
        sharing = WeightSharing.from_config(config["sharing"], inner.weights)
        return cls(inner, sharing, name=config["name"])


def _whole_step_gains_from_jit() -> bool:
    """False for TensorFlow on a CPU, where XLA slows convolutions down twofold."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _check_strategy(model: SoftWeightSharing) -> None:
    """Says early and clearly what Keras' `fit` would end in."""
    strategy = type(getattr(model, "distribute_strategy", None)).__name__
    if strategy == "CollectiveAllReduceStrategy" or "MultiWorkerMirrored" in strategy:
        raise NotImplementedError(
            "tf.distribute.MultiWorkerMirroredStrategy does not work with fit of Keras 3, "
            "with or without soft weight-sharing (it ends in 'unsupported type PerReplica', "
            "Keras issue 20585). Train on several machines with KERAS_BACKEND=jax and "
            "keras.distribution.DataParallel, on the devices of one machine with "
            "tf.distribute.MirroredStrategy; see docs/guide.md."
        )
