"""BatchNorm folded into the kernels of tf_keras models, whose configurations differ."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from test_batch_norm import LAYERS, randomise
from tf_keras_families import BUILDERS, subclassed

import tfmot_sws as sws

k = tf_keras.layers


def num_norms(model):
    return sum(isinstance(part, k.BatchNormalization) for part in model.submodules)


def check_same(model, folded, rng):
    x = rng.standard_normal((4, *model.input_shape[1:])).astype("float32")
    for a, e in zip(tf.nest.flatten(folded(x)), tf.nest.flatten(model(x)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_type(name, rng):
    make, shape = LAYERS[name]
    model = tf_keras.Sequential(
        [tf_keras.Input(shape), make(k, use_bias=False), k.BatchNormalization()]
    )
    folded = sws.fold_batch_norm(randomise(model, rng))
    assert [layer.name for layer in folded.layers] == [model.layers[0].name]
    check_same(model, folded, rng)


def test_functional_model_with_branches_and_operators(rng):
    inputs = tf_keras.Input((8, 8, 3))
    x = k.ReLU()(k.BatchNormalization()(k.Conv2D(4, 3, padding="same")(inputs)))
    y = k.BatchNormalization(name="end")(k.Conv2D(4, 1)(x))
    z = k.Conv2D(4, 1)(x)
    total = k.Add()([x, y]) + k.BatchNormalization(name="read_twice")(z) * 2.0 - z
    model = randomise(tf_keras.Model(inputs, [total, y]), rng)
    folded = sws.fold_batch_norm(model)
    assert (num_norms(model), num_norms(folded)) == (3, 1)
    check_same(model, folded, rng)


@pytest.mark.parametrize("name", ["nested", "functional"])
def test_families(name, rng):
    model = randomise(BUILDERS[name](tf_keras), rng)
    folded = sws.fold_batch_norm(model)
    assert num_norms(folded) == 0
    assert type(folded) is type(model)
    check_same(model, folded, rng)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: k.BatchNormalization()(k.Conv2D(4, 3, activation="relu")(x)),
        lambda x: k.BatchNormalization()(k.Conv2D(4, 3)(x), training=True),
        lambda x: k.BatchNormalization(axis=1)(k.Conv2D(4, 3)(x)),
        lambda x: k.Conv2D(4, 3)(k.BatchNormalization()(x)),
    ],
)
def test_what_cannot_be_folded_stays(build, rng):
    inputs = tf_keras.Input((8, 8, 3))
    model = randomise(tf_keras.Model(inputs, build(inputs)), rng)
    folded = sws.fold_batch_norm(model)
    assert num_norms(folded) == 1
    check_same(model, folded, rng)


def test_subclassed_model_is_a_clear_error():
    with pytest.raises(ValueError, match=r"\(Subclassed\), which is subclassed"):
        sws.fold_batch_norm(subclassed())


def test_export_warns_of_clusters_that_will_be_lost(rng):
    model = randomise(BUILDERS["functional"](tf_keras), rng)
    kernel = model.layers[1].kernel
    kernel.assign(rng.choice(np.float32([-0.3, 0, 0.4]), kernel.shape))
    with pytest.warns(UserWarning, match=r"BatchNorm layers \['batch_norm.*fold_batch_norm"):
        sws.convert_to_tflite(model)
