"""BatchNorm folded into kernels: same predictions, fewer layers, clusters that last."""

import keras
import numpy as np
import pytest
import tf_keras
from families import nested, sequential, subclassed
from keras import layers
from rounding import NUM_VALUES, cluster

import tfmot_sws as sws
from tfmot_sws.litert.file import stored_tensors

LAYERS = {
    "dense": (lambda lib, **k: lib.Dense(6, **k), (5,)),
    "dense_of_sequence": (lambda lib, **k: lib.Dense(6, **k), (4, 5)),
    "conv1d": (lambda lib, **k: lib.Conv1D(6, 3, **k), (8, 4)),
    "conv2d": (lambda lib, **k: lib.Conv2D(6, 3, **k), (8, 8, 4)),
    "conv2d_groups": (lambda lib, **k: lib.Conv2D(6, 3, groups=2, **k), (8, 8, 4)),
    "conv3d": (lambda lib, **k: lib.Conv3D(6, 2, **k), (4, 4, 4, 3)),
    "depthwise1d": (lambda lib, **k: lib.DepthwiseConv1D(3, depth_multiplier=2, **k), (8, 4)),
    "depthwise2d": (
        lambda lib, **k: lib.DepthwiseConv2D(3, depth_multiplier=3, **k),
        (8, 8, 4),
    ),
    "separable1d": (lambda lib, **k: lib.SeparableConv1D(6, 3, **k), (8, 4)),
    "separable2d": (lambda lib, **k: lib.SeparableConv2D(6, 3, **k), (8, 8, 4)),
    "transpose1d": (lambda lib, **k: lib.Conv1DTranspose(6, 3, **k), (8, 4)),
    "transpose2d": (lambda lib, **k: lib.Conv2DTranspose(6, 3, **k), (8, 8, 4)),
    "transpose3d": (lambda lib, **k: lib.Conv3DTranspose(6, 2, **k), (4, 4, 4, 3)),
}


def randomise(model, rng):
    """Weights as after training: no statistic is 0 or 1."""
    for variable in model.variables:
        if "seed" not in variable.name:
            variable.assign(rng.uniform(0.3, 1.5, variable.shape))
    return model


def num_norms(model):
    return sum(
        isinstance(layer, layers.BatchNormalization) + num_norms(layer)
        for layer in getattr(model, "layers", ())
    )


def check_same(model, folded, rng):
    x = rng.standard_normal((8, *model.input_shape[1:])).astype("float32")
    expected = keras.tree.flatten(model.predict(x, verbose=0))
    for a, e in zip(keras.tree.flatten(folded.predict(x, verbose=0)), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_type(name, use_bias, rng):
    make, shape = LAYERS[name]
    norm = layers.BatchNormalization(scale=use_bias, center=not use_bias)
    model = keras.Sequential([keras.Input(shape), make(layers, use_bias=use_bias), norm])
    folded = sws.fold_batch_norm(randomise(model, rng))
    assert [layer.name for layer in folded.layers] == [model.layers[0].name]
    check_same(model, folded, rng)


def test_functional_model_with_branches(rng):
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(inputs)))
    y = layers.BatchNormalization(name="end")(layers.Conv2D(4, 1)(x))
    total = layers.Add()([x, y]) + 1.0
    model = randomise(keras.Model(inputs, {"sum": total, "end": y}), rng)
    folded = sws.fold_batch_norm(model)
    assert num_norms(folded) == 0
    assert num_norms(model) == 2
    assert not folded.compiled
    check_same(model, folded, rng)


def test_nested_model(rng):
    model = randomise(nested(), rng)
    folded = sws.fold_batch_norm(model)
    assert num_norms(folded) == 0
    assert not folded.get_layer("frozen").trainable
    check_same(model, folded, rng)


def relu_between(x):
    return layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x))


def read_twice(x):
    x = layers.Conv2D(4, 3)(x)
    return layers.Add()([x, layers.BatchNormalization()(x)])


def called_twice(x):
    conv = layers.Conv2D(3, 1)
    return layers.BatchNormalization()(conv(conv(x)))


def norm_called_twice(x):
    norm = layers.BatchNormalization()
    return norm(norm(layers.Conv2D(3, 1)(x)))


def training_statistics(x):
    return layers.BatchNormalization()(layers.Conv2D(4, 3)(x), training=True)


def other_axis(x):
    return layers.BatchNormalization(axis=1)(layers.Conv2D(4, 3)(x))


def norm_first(x):
    return layers.Conv2D(4, 3)(layers.BatchNormalization()(x))


@pytest.mark.parametrize(
    "build",
    [
        relu_between,
        read_twice,
        called_twice,
        norm_called_twice,
        training_statistics,
        other_axis,
        norm_first,
    ],
)
def test_what_cannot_be_folded_stays(build, rng):
    inputs = keras.Input((8, 8, 3))
    model = randomise(keras.Model(inputs, build(inputs)), rng)
    folded = sws.fold_batch_norm(model)
    assert num_norms(folded) == 1
    check_same(model, folded, rng)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_what_normalization_was_adapted_to_is_kept(library, rng):
    x = (1000 * rng.random((200, 3)) + [0, 500, 9000]).astype("float32")
    normalize = library.layers.Normalization()
    normalize.adapt(x)
    dense, norm = library.layers.Dense(8), library.layers.BatchNormalization()
    model = library.Sequential([library.layers.Input((3,)), normalize, dense, norm])
    folded = sws.fold_batch_norm(model)
    assert len(folded.layers) == len(model.layers) - 1
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_model_without_batch_norm_is_copied(rng):
    model = sequential()
    folded = sws.fold_batch_norm(model)
    assert folded is not model
    check_same(model, folded, rng)


def test_layers_that_keras_does_not_know_are_rebuilt(rng):
    class Halve(layers.Layer):
        def call(self, inputs):
            return inputs / 2

    inputs = keras.Input((8,))
    x = layers.BatchNormalization()(layers.Dense(4)(Halve()(inputs)))
    model = randomise(keras.Model(inputs, layers.Lambda(lambda x: x + 1)(x)), rng)
    folded = sws.fold_batch_norm(model)
    assert num_norms(folded) == 0
    check_same(model, folded, rng)


def test_subclassed_model_is_a_clear_error():
    with pytest.raises(
        ValueError, match=r"'subclassed\w*' \(Subclassed\), which is subclassed"
    ):
        sws.fold_batch_norm(subclassed())


@pytest.fixture
def normed(rng):
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(16, 3)(inputs))
    return randomise(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)), rng)


def distinct_of_kernel(tflite):
    return max(t.distinct for t in stored_tensors(tflite) if len(t.shape) == 4)


def test_export_warns_of_clusters_that_will_be_lost(normed):
    cluster(normed)
    with pytest.warns(UserWarning, match=r"BatchNorm layers \['batch_norm.*fold_batch_norm"):
        tflite = sws.convert_to_tflite(normed)
    assert distinct_of_kernel(tflite) > 2 * NUM_VALUES


def test_clusters_survive_when_folded_before_sharing(normed):
    tflite = sws.convert_to_tflite(cluster(sws.fold_batch_norm(normed)))
    assert distinct_of_kernel(tflite) <= NUM_VALUES


def test_int8_keeps_clusters_without_folding(normed, rng):
    x = rng.standard_normal((8, 8, 8, 3)).astype("float32")
    tflite = sws.convert_to_tflite(cluster(normed), "int8", representative_data=x)
    assert max(t.distinct_per_channel for t in stored_tensors(tflite)) <= NUM_VALUES


def test_dense_kernels_behind_batch_norm_need_no_warning(normed):
    sws.convert_to_tflite(normed)
