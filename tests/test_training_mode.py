"""Layers that act differently in training do so under soft weight-sharing, too."""

import keras
import numpy as np
import pytest
import tf_keras
import tf_keras_families as builders
from families import GENTLE

import tfmot_sws as sws
from tfmot_sws.training import schedules

pytestmark = pytest.mark.filterwarnings("ignore:BatchNorm layers:UserWarning")


@pytest.fixture(params=[keras, tf_keras], ids=["keras", "tf_keras"])
def library(request):
    """Keras 3 or tf_keras."""
    return request.param


def _moving(model):
    """By order, the statistics that batch normalisation keeps."""
    return [np.array(w) for w in model.non_trainable_weights if "moving_" in w.name]


# Nothing is snapped, of which the callback warns.
@pytest.mark.filterwarnings("ignore:The weights are only 0% of the way:UserWarning")
@pytest.mark.parametrize("name", ["functional", "nested"])
def test_batch_norm_keeps_the_statistics_that_it_keeps_without_us(library, name, rng):
    plain, model = (builders.BUILDERS[name](library) for _ in range(2))
    model.set_weights(plain.get_weights())
    data = builders.make_data(name, rng)
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    # One step, so that both see the same weights.
    settings = {"batch_size": len(data[0]), "verbose": 0}
    for each, callbacks in (
        (plain, []),
        (shared, [sws.AnnealAndMerge(snap=schedules.constant(0.0))]),
    ):
        each.compile("adam", loss="mse")
        each.fit(*data, callbacks=callbacks, **settings)
    kept = _moving(shared)
    assert len(kept) == 2
    for own, expected, start in zip(kept, _moving(plain), (0.0, 1.0), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)
        # It was renewed at all.
        assert np.all(own != start)


def test_dropout_drops_in_training_only(library, rng):
    layers = library.layers
    dense = [
        library.Input((10,)),
        layers.Dense(32, "relu"),
        layers.Dropout(0.5),
        layers.Dense(3),
    ]
    model = library.Sequential(dense)
    x = rng.normal(size=(4, 10)).astype("float32")
    expected = np.array(model(x, training=False))
    shared = sws.apply_soft_weight_sharing(model, train_size=len(x), **GENTLE)
    np.testing.assert_allclose(shared(x, training=False), expected, rtol=1e-5, atol=1e-6)
    dropped = [np.array(shared(x, training=True)) for _ in range(2)]
    assert np.any(np.abs(dropped[0] - expected) > 1e-3)
    assert np.any(np.abs(dropped[0] - dropped[1]) > 1e-3)
