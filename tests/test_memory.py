"""A process that trains model after model does not keep them."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tf_keras
from families import GENTLE, RANDOM_NETWORKS
from tensorflow.python.framework.ops import gradient_registry

import tfmot_sws as sws

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
