"""The mean squared gradients of tf_keras models, by which sensitivities are measured."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from tfmot_sws.models.wrapped import wrapped_parts
from tfmot_sws.training.observations import SIGNS, places_of_targets, separate_values, signs_of
from tfmot_sws.training.sensitivity import shifted

# Gradients in float16 below 6e-8 are lost.
_LOSS_SCALE = 1024.0


def squared_gradients(
    model: tf_keras.Model, x: Any, y: Any, sample_weight: Any
) -> NDArray[np.floating]:
    """A batch's error loss, that by chance, and the mean squared gradient in each tensor.

    A step in training mode changes moving averages, counters and metrics; all are put back.

    Args:
        model: wrapped, or with wrapped layers, and compiled.
        x: a batch of inputs.
        y: its targets.
        sample_weight: its weights, or `None`.

    Returns:
        The error loss; that with each example's target given to the next; and one number
        a tensor, in the order of the groups and of their variables.
    """
    parts = wrapped_parts(model)
    groups = [group for part in parts for group in part.groups]
    shared = [variable.native for group in groups for variable in group.variables]
    changed = [*model.non_trainable_variables, *(v for m in model.metrics for v in m.variables)]
    kept = [variable.numpy() for variable in changed]
    for part in parts:
        part.sharing.is_measured = True
    try:
        squares = _program(model)(
            shared, *_tensors((signs_of(x), separate_values(y), x, y, sample_weight))
        ).numpy()
    finally:
        for part in parts:
            part.sharing.is_measured = False
    for variable, value in zip(changed, kept, strict=True):
        variable.assign(value)
    return squares


def _program(model: tf_keras.Model) -> Any:
    """The compiled function of a model and its loss; it holds none of the model's values."""
    loss, program = vars(model).get("sensitivity_program", (None, None))
    if loss is not model.compiled_loss:
        program = functools.partial(_of_one_replica, model)
        if not model.run_eagerly:
            program = tf.function(program, autograph=False)
        # Past `__setattr__`, which would track it.
        vars(model)["sensitivity_program"] = model.compiled_loss, program
    return program


def _of_one_replica(model: tf_keras.Model, *data: Any) -> tf.Tensor:
    """`_squares` in each replica, because only there metrics can change; all see the batch."""
    strategy = model.distribute_strategy
    return strategy.experimental_local_results(strategy.run(_squares, (model, *data)))[0]


def _squares(
    model: tf_keras.Model,
    shared: list[tf.Variable],
    signs: tf.Tensor,
    separate: tf.Tensor,
    x: Any,
    y: Any,
    sample_weight: Any,
) -> tf.Tensor:
    def error_loss(targets: Any) -> tf.Tensor:
        compiled = model.compiled_loss(targets, outputs, sample_weight)
        # tf_keras has divided it by the number of replicas, whose gradients are summed.
        own = [] if compiled is None else [replicas * tf.cast(compiled, tf.float32)]
        return tf.add_n([*own, *(tf.cast(loss, tf.float32) for loss in model.losses)])

    replicas = float(model.distribute_strategy.num_replicas_in_sync)
    with tf.GradientTape() as tape:
        outputs = _with_random_signs(model(x, training=True), y, signs, separate)
        loss = error_loss(y)
        scaled = _LOSS_SCALE * loss
    gradients = tape.gradient(
        scaled, shared, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    floats = [tf.cast(tf.convert_to_tensor(g), tf.float32) / _LOSS_SCALE for g in gradients]
    squares = [tf.reduce_mean(tf.square(gradient)) for gradient in floats]
    return tf.stack([loss, error_loss(shifted(y)), *squares])


def _with_random_signs(
    outputs: Any, targets: Any, signs: tf.Tensor, separate: tf.Tensor
) -> Any:
    """As in `tfmot_sws.training.observations`."""
    leaves = [
        _RandomSigns(signs, None if place is None else separate[place])(leaf)
        for leaf, place in places_of_targets(tf.nest.flatten(outputs), targets)
    ]
    return tf.nest.pack_sequence_as(outputs, leaves)


class _RandomSigns(tf_keras.layers.Layer):
    """As in `tfmot_sws.training.observations`."""

    def __init__(self, signs: tf.Tensor, separate: tf.Tensor | None) -> None:
        super().__init__(name="random_signs", autocast=False)
        self.supports_masking = True
        self._signs, self._separate = signs, separate

    def call(self, outputs: tf.Tensor) -> tf.Tensor:
        if not (tf.is_tensor(outputs) and outputs.dtype.is_floating):
            return outputs
        shape, rank = tf.shape(outputs), outputs.shape.rank
        factor = self._factors(tf.concat([shape[:-1], [1]], 0), rank) if rank > 2 else 1.0
        if self._separate is not None:
            factor = factor + self._separate * (self._factors(shape, rank) - factor)
        if isinstance(factor, float):
            return outputs
        change = outputs - tf.stop_gradient(outputs)
        return outputs + tf.cast(factor - 1, outputs.dtype) * change

    def _factors(self, shape: tf.Tensor, rank: int) -> tf.Tensor:
        drawn = tf.gather(SIGNS, tf.range(tf.reduce_prod(shape)) % len(SIGNS))
        of_examples = tf.reshape(self._signs, [-1, *[1] * (rank - 1)])
        root = tf.sqrt(tf.cast(tf.reduce_prod(shape[1:]), tf.float32))
        return root * of_examples * tf.reshape(drawn, shape)


def _tensors(nested: Any) -> Any:
    return tf.nest.map_structure(
        lambda a: None if a is None else tf.convert_to_tensor(a), nested
    )
