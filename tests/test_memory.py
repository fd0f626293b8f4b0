"""A process that trains model after model does not keep them."""

import contextlib
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from families import GENTLE, RANDOM_NETWORKS
from tensorflow.python.framework.ops import gradient_registry

import tfmot_sws as sws
from tfmot_sws.training import programs

pytestmark = RANDOM_NETWORKS


def train(library, optimizer):
    """Wraps a new model and trains it for some steps; refers to it weakly."""
    model = library.Sequential([library.Input((4,)), library.layers.Dense(3)])
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    shared.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    shared.fit(x, x[:, :3], batch_size=8, verbose=0, callbacks=[sws.AnnealAndMerge()])
    return weakref.ref(shared)


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("scaled", [False, True])
def test_nothing_is_kept_of_models_that_are_gone(library, scaled):
    """TensorFlow keeps each gradient for ever, and with it the graph that it was made in."""

    def optimizer():
        adam = library.optimizers.Adam()
        if not scaled:
            return adam
        scales = keras.optimizers if library is keras else tf_keras.mixed_precision
        return scales.LossScaleOptimizer(adam)

    train(library, optimizer())
    before = len(gradient_registry.list())
    models = [train(library, optimizer()) for _ in range(2)]
    assert len(gradient_registry.list()) == before
    gc.collect()
    assert [model() for model in models] == [None, None]


def first_losses(scale):
    """What a model of one structure, but other weights, holds as its complexity losses."""
    model = keras.Sequential([keras.layers.Dense(3)])
    model.build((None, 4))
    model.set_weights([scale * w + scale for w in model.get_weights()])
    shared = sws.apply_soft_weight_sharing(model, **GENTLE, train_size=100)
    shared.sharing.renew()
    shared.sharing.count()
    counts = shared.sharing.counts()
    held = [np.array(value) for value in shared.sharing.held.read()]
    shared.sharing.snap.assign(1.0)
    snapped = [np.array(tensor) for _, tensor in shared.sharing.snapped()]
    return [*held, *counts, *snapped]


@pytest.mark.parametrize("strategy", [None, tf.distribute.MirroredStrategy])
def test_models_of_one_structure_share_programs_but_no_values(strategy):
    """A program that holds on to a variable would compute the second model with the first."""
    with strategy(["CPU:0"]).scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        first_losses(1.0)
        second = first_losses(3.0)
        programs._program.cache_clear()
        keras.utils.set_random_seed(0)
        first_losses(1.0)
        programs._program.cache_clear()
        alone = first_losses(3.0)
    for value, expected in zip(second, alone, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)
