"""Measures how sensitive the error loss is to the weights of each shared tensor.

The sensitivity F of a tensor is the mean squared gradient of one example's error loss over
its weights, the empirical Fisher information. By it each tensor gets its assignment width: the
curvature says how much a shift of a weight costs. It is measured on batches beside the
training steps, because what an optimizer does with a step's gradients is its own affair.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.backend.compiling import traced
from tfmot_sws.backend.gradients import value_and_gradients
from tfmot_sws.models.examples import check_examples
from tfmot_sws.models.libraries import library_of
from tfmot_sws.models.wrapped import check_not_around, wrapped_parts
from tfmot_sws.training.observations import separate_values, signs_of, with_random_signs

Tensor = Any

# Share of the way that a sensitivity goes to what one more batch says.
_STEP = 0.2
# Gradients in float16 below 6e-8 are lost: the loss is scaled up, as LossScaleOptimizer does.
_LOSS_SCALE = 1024.0


def measure_sensitivity(model: Any, x: Any, y: Any = None, sample_weight: Any = None) -> None:
    """Measures the sensitivity of each shared tensor on one batch, for a loop of your own.

    The assignment widths follow from it, and the proportions from a new count of each
    component's members. `fit` does so by itself, with `AnnealAndMerge` among its callbacks.
    In a training loop of your own, call it a few times before the first step, each time with
    another batch, and then once in some twenty steps, until 70 % of the training. A batch
    whose gradients are not finite is left out.

    Args:
        model: wrapped by `apply_soft_weight_sharing` and compiled with its loss.
        x: a batch of inputs, as for `train_on_batch`; the more examples the better.
        y: its targets.
        sample_weight: its weights.

    Raises:
        TypeError: the model is not wrapped, or the batch is no arrays.
        ValueError: it is not compiled, or the arrays do not fit it or one another.

    References:
        Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS
        2017, for the empirical Fisher information of a network's weights.
    """
    parts = wrapped_parts(model)
    if not parts:
        raise TypeError(
            "measure_sensitivity expects a model wrapped by apply_soft_weight_sharing; "
            f"received {type(model).__name__}."
        )
    check_not_around(model, "Pass that one, compiled with its loss.")
    # Only models of Keras 3 say `compiled`, and only those of tf_keras have no loss before.
    if not (model.compiled if hasattr(model, "compiled") else model.compiled_loss):
        raise ValueError(
            f"Model '{model.name}' is not compiled, so the loss whose gradient is to be "
            "measured is unknown. Call compile(loss=..., optimizer=...) first."
        )
    _check_batch(model, x, y, sample_weight)
    update_sensitivity(model, x, y, sample_weight)
    for part in parts:
        part.sharing.set_widths()
        part.sharing.renew(counting=True)


def _check_batch(model: Any, x: Any, y: Any, sample_weight: Any) -> None:
    check_examples("x", x, getattr(model, "inner", model))
    if y is None and getattr(model, "loss", None) is not None:
        raise ValueError(
            "y is None, and the loss that the model is compiled with needs targets."
        )
    size = len(keras.tree.flatten(x)[0])
    for name, values in (("y", y), ("sample_weight", sample_weight)):
        # Keras takes None for the targets of an output without a loss.
        leaves = [leaf for leaf in keras.tree.flatten(values) if leaf is not None]
        if values is not None:
            check_examples(name, leaves)
        if any(len(leaf) != size for leaf in leaves):
            raise ValueError(f"{name} has {len(leaves[0])} examples, and x has {size}.")


def update_sensitivity(model: Any, x: Any, y: Any = None, sample_weight: Any = None) -> None:
    """As `measure_sensitivity`, of which nothing follows yet."""
    parts = wrapped_parts(model)
    size = np.shape(keras.tree.flatten(x)[0])[0]
    measured = size * _measure(model, x, y, sample_weight)[2:]
    # One NaN may have been a zero, behind a ReLU, in other tensors.
    if not np.all(np.isfinite(measured)):
        return
    groups = [group for part in parts for group in part.sharing.groups]
    ends = np.cumsum([len(group.variables) for group in groups])
    for group, values in zip(groups, np.split(measured, ends[:-1]), strict=True):
        _take_in(group.prior.sensitivities, values)


def measure_losses(
    model: Any, x: Any, y: Any = None, sample_weight: Any = None
) -> NDArray[np.float64]:
    """The error loss of a batch, and the loss to be had by chance.

    By chance: with each example's target given to the next. NaN where that is unknown,
    because there are no targets or all are alike.

    Args:
        model: as for `measure_sensitivity`.
        x: a batch of inputs.
        y: its targets.
        sample_weight: its weights.
    """
    loss, by_chance = _measure(model, x, y, sample_weight)[:2]
    return np.array([loss, by_chance if _differ(y) else np.nan])


def _differ(targets: Any) -> bool:
    """Whether some example's target is not that of the example before."""
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(targets) if leaf is not None]
    return any(np.any(leaf != np.roll(leaf, 1, axis=0)) for leaf in leaves)


def _measure(model: Any, x: Any, y: Any, sample_weight: Any) -> NDArray[np.float64]:
    measure = library_of(model).squared_gradients or _squared_gradients
    return np.asarray(measure(model, x, y, sample_weight), np.float64)


def _take_in(sensitivities: keras.Variable, measured: NDArray[np.float64]) -> None:
    """Moves sensitivities towards what was measured; the first time all the way."""
    old = ops.convert_to_numpy(sensitivities).astype(np.float64)
    new = np.where(old > 0, old + _STEP * (measured - old), measured)
    sensitivities.assign(new.astype(np.float32))


def _squared_gradients(model: Any, x: Any, y: Any, sample_weight: Any) -> NDArray[np.floating]:
    """A batch's error loss, that by chance, and the mean squared gradient in each tensor."""
    shared = [v for group in model.sharing.groups for v in group.variables]
    pairs = model.sharing.snapped()
    taken = {id(v) for v, _ in pairs}
    others = [v for v in model.inner.variables if id(v) not in taken]
    rounded = pairs[len(shared) :]
    if model.sensitivity_program is None:
        program = _Program(model, shared, [*(v for v, _ in rounded), *others])
        vars(model)["sensitivity_program"] = program if model.run_eagerly else traced(program)
    snapped = [ops.stop_gradient(tensor) for _, tensor in pairs[: len(shared)]]
    fixed = [*(tensor for _, tensor in rounded), *(v.value for v in others)]
    data = keras.tree.map_structure(
        lambda array: None if array is None else ops.convert_to_tensor(array),
        (signs_of(x), separate_values(y), x, y, sample_weight),
    )
    return ops.convert_to_numpy(model.sensitivity_program(snapped, fixed, *data))


class _Program:
    """The losses and the mean squared gradients as a pure function of tensors."""

    def __init__(self, model: Any, shared: list[Any], others: list[Any]) -> None:
        self._model, self._shared, self._others = model, shared, others
        policy = getattr(model.inner.dtype_policy, "name", "")
        self._scale = _LOSS_SCALE if policy == "mixed_float16" else 1.0

    def __call__(
        self,
        snapped: list[Tensor],
        others: list[Tensor],
        signs: Tensor,
        separate: Tensor,
        x: Any,
        y: Any,
        sample_weight: Any,
    ) -> Tensor:
        fixed = list(zip(self._others, others, strict=True))

        def error_loss(*tensors: Tensor, targets: Any = y) -> Tensor:
            values = [*zip(self._shared, tensors, strict=True), *fixed]
            # What the call changes, such as moving averages, goes with the scope.
            with keras.StatelessScope(values, collect_losses=True):
                outputs = self._model.inner(x, training=True)
                outputs = with_random_signs(outputs, y, signs, separate)
                loss = self._model.error_loss(x, targets, outputs, sample_weight, True)
            return self._scale * loss

        loss, gradients = value_and_gradients(error_loss, snapped)
        # The network is called again, which costs less than another way to keep outputs.
        by_chance = error_loss(*snapped, targets=shifted(y))
        floats = [ops.cast(gradient, "float32") / self._scale for gradient in gradients]
        squares = [ops.mean(ops.square(gradient)) for gradient in floats]
        losses = [ops.cast(value, "float32") / self._scale for value in (loss, by_chance)]
        return ops.stack([*losses, *squares])


def shifted(targets: Any) -> Any:
    """Targets with each example's given to the next."""
    return keras.tree.map_structure(
        lambda array: None if array is None else ops.roll(array, 1, axis=0), targets
    )
