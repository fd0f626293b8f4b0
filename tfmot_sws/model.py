"""The wrapper: a Keras model whose weights are drawn towards a mixture as it trains."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.complexity_weight import default_complexity_weight
from tfmot_sws.held_gradients import HeldGradients
from tfmot_sws.hyperpriors import BetaHyperprior
from tfmot_sws.model_view import (
    is_layer_of_tf_keras,
    is_tf_keras,
    is_wrapped,
    view_of,
)
from tfmot_sws.prior import GaussianMixturePrior, PriorOptions
from tfmot_sws.replica_losses import ReplicaLosses
from tfmot_sws.selection import (
    Selector,
    WeightChoice,
    check_finite,
    choose_weights,
    group_by_scope,
)
from tfmot_sws.train_size import count_examples, count_steps

Tensor = Any


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
        from tfmot_sws.tf_keras_adapter.layers import LayerSettings, wrap_layers

        settings = LayerSettings(
            complexity_weight, train_size, include, exclude, preserve_sparsity
        )
        return wrap_layers(model, make_prior, settings)
    _check_model(model)
    view = view_of(model)
    choices = choose_weights(view, include, exclude)
    wrapper: Any = SoftWeightSharing
    if is_tf_keras(model):
        from tfmot_sws.tf_keras_adapter import places
        from tfmot_sws.tf_keras_adapter import wrapper as tf_keras_wrapper

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


@keras.saving.register_keras_serializable(package="tfmot_sws")
class SoftWeightSharing(keras.Model):
    """A model under soft weight-sharing; made by `apply_soft_weight_sharing`.

    It calls the wrapped model with its shared weights moved towards their components'
    means by the share `snap`, and in training adds the complexity loss. It trains,
    saves, loads and resumes as any Keras model.

    Args:
        inner: the user's model.
        priors: one a group.
        groups: positions in `inner.weights` of each group's shared variables.
        choices: what was decided about each of `inner.weights`.
        complexity_weight: tau, the value that schedules scale; `None` for the default.
        train_size: N, or `None` while unknown.
        preserve_sparsity: whether weights of kernels that are zero stay zero.

    Attributes:
        inner: the user's model.
        priors: the mixtures with their hyperpriors.
        shared_weights: `WeightChoice` records: what is shared, what not, and why.
        complexity_weight: variable, tau as it is at present.
        snap: variable, the share of the way from w to its mean, from 0 to 1.
        dither: variable, the noise on the assignment in training, in assignment widths.
        steps: variable, the number of training steps so far, from which the noise follows.
    """

    def __init__(
        self,
        inner: keras.Model,
        priors: list[GaussianMixturePrior],
        groups: list[list[int]],
        choices: list[WeightChoice],
        *,
        complexity_weight: float | None,
        train_size: int | None,
        preserve_sparsity: bool = False,
        name: str | None = None,
    ) -> None:
        name = name or f"soft_weight_sharing_{inner.name}"
        super().__init__(name=name, dtype=inner.dtype_policy, autocast=False)
        self.inner = inner
        self.priors = list(priors)
        self._groups = [list(group) for group in groups]
        self.held_gradients = [
            HeldGradients.of(prior, [tuple(v.shape) for v in variables])
            for prior, variables in zip(self.priors, self.shared_variables, strict=True)
        ]
        self.shared_weights = list(choices)
        self.base_complexity_weight = complexity_weight
        self.train_size = train_size
        self.steps_per_epoch: int | None = None
        self.preserve_sparsity = preserve_sparsity
        self.complexity_weight = self._scalar("complexity_weight", complexity_weight or 0.0)
        self.snap = self._scalar("snap", 0.0)
        self.dither = self._scalar("dither", 0.0)
        self.steps = self._scalar("steps", 0.0)
        self.complexity_sum = self._scalar("complexity_sum", 0.0)
        self.complexity_steps = self._scalar("complexity_steps", 0.0)
        self.supports_masking = True
        self._replica_losses = ReplicaLosses()
        if train_size is not None:
            self._set_train_size(train_size)
        self.built = True

    def _set_train_size(self, train_size: int) -> None:
        self.train_size = train_size
        if self.base_complexity_weight is None:
            self.complexity_weight.assign(default_complexity_weight(train_size))

    def settle_complexity_weight(self, learning_rate: float) -> None:
        """Fixes the tau that schedules scale, if none was given; `AnnealAndMerge` does so."""
        if self.base_complexity_weight is None and self.train_size is not None:
            self.base_complexity_weight = default_complexity_weight(
                self.train_size, learning_rate
            )

    def _scalar(self, name: str, value: float) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(float(value)),
            trainable=False,
            aggregation="only_first_replica",
        )

    @property
    def shared_variables(self) -> list[list[keras.Variable]]:
        """The shared variables of the wrapped model, one list a mixture."""
        weights = self.inner.weights
        return [[weights[position] for position in group] for group in self._groups]

    def assignments(self) -> list[list[NDArray[np.int32]]]:
        """The component slot of every shared weight: arrays shaped as `shared_variables`."""
        slots = []
        for prior, variables in zip(self.priors, self.shared_variables, strict=True):
            flat = ops.convert_to_numpy(prior.assign(_join(variables)))
            ends = np.cumsum([np.prod(v.shape, dtype=int) for v in variables])
            parts = np.split(flat, ends[:-1])
            shaped = [p.reshape(v.shape) for p, v in zip(parts, variables, strict=True)]
            for variable, part in zip(variables, shaped, strict=True):
                if self._keeps_zeros(variable):
                    part[ops.convert_to_numpy(variable) == 0] = 0
            slots.append(shaped)
        return slots

    def _keeps_zeros(self, variable: keras.Variable) -> bool:
        return self.preserve_sparsity and len(variable.shape) > 1

    def _without_zeros(self, variable: keras.Variable, tensor: Tensor) -> Tensor:
        """The tensor, but zero and without a gradient where a zero is to be kept."""
        if not self._keeps_zeros(variable):
            return tensor
        return ops.where(ops.equal(variable, 0), ops.zeros_like(tensor), tensor)

    def build(self, input_shape: Any = None) -> None:
        """Nothing is left to build: the wrapped model and the priors are built."""
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Calls the wrapped model with snapped weights; adds the losses in training."""
        shared, complexity = self._share_step(training=bool(training))
        taken = {id(variable) for variable, _ in shared}
        others = [v for v in self.inner.variables if id(v) not in taken]
        scope = keras.StatelessScope(
            [*shared, *((v, v.value) for v in others)], collect_losses=True
        )
        before = [scope.get_current_value(v) for v in others]
        with scope:
            outputs = self.inner(inputs)
        # Moving averages, seeds and their like, where the call has changed them.
        for variable, value in zip(others, before, strict=True):
            after = scope.get_current_value(variable)
            if after is not value:
                variable.assign(after)
        losses = [*scope.losses, *complexity]
        self._replica_losses.note(losses)
        for loss in losses:
            self.add_loss(loss)
        return outputs

    @property
    def losses(self) -> list[Tensor]:
        """As of any Keras layer, and within `tf.distribute` those of one replica."""
        return self._replica_losses.without_others(super().losses)

    def _share_step(
        self, *, training: bool
    ) -> tuple[list[tuple[keras.Variable, Tensor]], list[Tensor]]:
        """The snapped weights, each with its variable; in training also the complexity loss.

        The mixture's variables must be read once only. While the prior's pull is held, the
        update of a variable depends on no other reading of it, and TensorFlow's graph
        optimizer then drops the rule that the reading comes first: the snap would at times
        see the mixture of the next step.
        """
        share, dither = self.snap.value, self.dither.value if training else None
        snapped: list[tuple[keras.Variable, Tensor]] = []
        losses = []
        for prior, held, variables in zip(
            self.priors, self.held_gradients, self.shared_variables, strict=True
        ):
            mixture = prior.tensors()
            weights = [self._without_zeros(v, ops.cast(v, "float32")) for v in variables]
            if training:
                losses.append(held.complexity_loss(prior, weights, mixture))
            moved = prior.snap(
                weights, share, dither=dither, step=self.steps.value, mixture=mixture
            )
            for v, tensor in zip(variables, moved, strict=True):
                snapped.append((v, self._without_zeros(v, ops.cast(tensor, v.dtype))))
        if not training:
            return snapped, []
        self.steps.assign_add(1.0)
        return snapped, [self._weighted(sum(losses))]

    def _weighted(self, loss: Tensor) -> Tensor:
        """(tau / N) times the priors' loss, also summed up for the logs."""
        if self.train_size is None:
            raise ValueError(
                "The number of training examples is not known. `fit` works it out from "
                "its data; in a loop of your own, pass train_size= to "
                "apply_soft_weight_sharing."
            )
        loss = loss * self.complexity_weight.value / float(self.train_size)
        self.complexity_sum.assign_add(ops.stop_gradient(loss))
        self.complexity_steps.assign_add(1.0)
        return loss

    def compile(self, *args: Any, jit_compile: bool | str = "auto", **kwargs: Any) -> None:
        """As `keras.Model.compile`, except for what "auto" means on a CPU.

        TensorFlow's XLA slows convolutions on a CPU down twofold, so there "auto" leaves
        the step as it is. The prior is compiled in any case.
        """
        if jit_compile == "auto" and not _whole_step_gains_from_jit():
            jit_compile = False
        super().compile(*args, jit_compile=jit_compile, **kwargs)

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
        return super().fit(**fit_arguments(keras.Model.fit, self, args, kwargs))

    def get_config(self) -> dict[str, Any]:
        """Configuration, the wrapped model's included."""
        return {
            "inner": keras.saving.serialize_keras_object(self.inner),
            "priors": [keras.saving.serialize_keras_object(p) for p in self.priors],
            "groups": self._groups,
            "choices": [vars(choice) for choice in self.shared_weights],
            "complexity_weight": self.base_complexity_weight,
            "train_size": self.train_size,
            "preserve_sparsity": self.preserve_sparsity,
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> SoftWeightSharing:
        """The inverse of `get_config`."""
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(config.pop("inner"), custom_objects)
        priors = [keras.saving.deserialize_keras_object(p) for p in config.pop("priors")]
        choices = [
            WeightChoice(**{**choice, "shape": tuple(choice["shape"])})
            for choice in config.pop("choices")
        ]
        return cls(inner, priors, config.pop("groups"), choices, **config)


def fit_arguments(
    fit: Callable[..., Any],
    model: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    count: Callable[..., int] = count_examples,
) -> dict[str, Any]:
    """The arguments of a wrapper's `fit` by name, with an `AnnealAndMerge` among them.

    The model's `train_size` is set where it was unknown.

    Args:
        fit: the function whose arguments these are.
        model: the wrapper.
        args: positional arguments, without the model.
        kwargs: named arguments.
        count: counts the training examples, as `count_examples` does.
    """
    from tfmot_sws.callbacks import AnnealAndMerge, put_first

    arguments = inspect.signature(fit).bind(model, *args, **kwargs).arguments
    arguments.pop("self")
    if model.train_size is None:
        train_size = count(
            arguments.get("x"),
            batch_size=arguments.get("batch_size"),
            steps_per_epoch=arguments.get("steps_per_epoch"),
            validation_split=arguments.get("validation_split") or 0.0,
        )
        model._set_train_size(train_size)
    model.steps_per_epoch = count_steps(arguments.get("x"), arguments.get("steps_per_epoch"))
    callbacks, added = put_first(arguments.get("callbacks"), AnnealAndMerge)
    if added:
        warnings.warn(
            "fit() was called without an AnnealAndMerge callback, so the default one "
            "was added. Pass callbacks=[tfmot_sws.AnnealAndMerge()] to silence this.",
            stacklevel=3,
        )
    arguments["callbacks"] = callbacks
    return arguments


def _join(variables: list[keras.Variable]) -> Tensor:
    """All entries of some variables as one flat float32 tensor."""
    return ops.concatenate([ops.reshape(ops.cast(v, "float32"), (-1,)) for v in variables])


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


def _check_model(model: Any) -> None:
    if is_wrapped(model):
        raise ValueError(
            f"Model '{model.name}' is already under soft weight-sharing. Fit it, or strip "
            "it with strip_soft_weight_sharing before wrapping again."
        )
    if is_tf_keras(model):
        from tfmot_sws.tf_keras_adapter.wrapper import check_model

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
