"""Soft weight-sharing as one step among those of tfmot, Keras and the AI Edge Quantizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from families import RANDOM_NETWORKS
from test_imports import run_python

import tfmot_sws as sws
from tfmot_sws.litert.converter import quietly
from tfmot_sws.litert.file import stored_tensors

NUM_COMPONENTS = 6


def build(k):
    """Large enough for tfmot's clusters, without BatchNorm, which would scale them."""
    return k.Sequential(
        [
            k.Input((8, 8, 1)),
            k.layers.Conv2D(8, 3, activation="relu"),
            k.layers.Flatten(),
            k.layers.Dense(16, activation="relu"),
            k.layers.Dense(3),
        ]
    )


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).standard_normal((64, 8, 8, 1)).astype("float32")
    return x, x.reshape(64, -1)[:, :3].copy()


def fit(model, data, epochs=1, callbacks=()):
    library = tf_keras if isinstance(model, tf_keras.Model) else keras
    model.compile(library.optimizers.Adam(1e-3), "mse")
    model.fit(*data, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def share(model, data, **kwargs):
    """Trained under soft weight-sharing, and stripped; some weights do not become zero."""
    shared = sws.apply_soft_weight_sharing(
        model,
        num_components=NUM_COMPONENTS,
        complexity_weight=1e-4,
        options=sws.PriorOptions(assignment_width=0.3),
        **kwargs,
    )
    fit(shared, data, 2, [sws.AnnealAndMerge()])
    return sws.strip_soft_weight_sharing(shared)


def kernels(model):
    return [w for w in model.get_weights() if w.ndim > 1]


@pytest.fixture(scope="module")
def pruned(data):
    """tfmot's pruning to 60 % zeros, stripped."""
    tf_keras.utils.set_random_seed(0)
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.6, begin_step=0, frequency=1)
    model = tfmot.sparsity.keras.prune_low_magnitude(build(tf_keras), schedule)
    fit(model, data, 2, [tfmot.sparsity.keras.UpdatePruningStep()])
    return tfmot.sparsity.keras.strip_pruning(model)


@pytest.fixture(scope="module")
def clustered(pruned, data):
    """Pruned by tfmot, then shared by us with its zeros kept."""
    zeros = [w == 0 for w in kernels(pruned)]
    return share(pruned, data, preserve_sparsity=True), zeros


def test_pruning_is_kept(clustered):
    plain, zeros = clustered
    assert all(np.mean(kept) > 0.55 for kept in zeros)
    for weights, kept in zip(kernels(plain), zeros, strict=True):
        assert np.all(weights[kept] == 0)
        assert 1 < len(np.unique(weights)) <= NUM_COMPONENTS


@RANDOM_NETWORKS
def test_without_the_option_zeros_train_on(pruned, data):
    before = kernels(pruned)
    copy = tf_keras.models.clone_model(pruned)
    copy.set_weights(pruned.get_weights())
    shared = sws.apply_soft_weight_sharing(copy, complexity_weight=1e-4)
    fit(shared, data, 1, [sws.AnnealAndMerge()])
    assert any(np.any(w[b == 0] != 0) for w, b in zip(kernels(copy), before, strict=True))


def int8_kernels(tflite):
    """The kernels in a file that are stored as int8, by size."""
    tensors = [t for t in stored_tensors(tflite) if t.dtype == "int8" and len(t.shape) > 1]
    return sorted(tensors, key=lambda t: t.size)


@pytest.mark.parametrize("preserve_sparsity", [False, True])
def test_quantization_aware_training_keeps_clusters(clustered, data, preserve_sparsity):
    plain, _ = clustered
    quantization = tfmot.quantization.keras
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(
        preserve_sparsity=preserve_sparsity
    )
    model = quantization.quantize_apply(quantization.quantize_annotate_model(plain), scheme)
    converter = tf.lite.TFLiteConverter.from_keras_model(fit(model, data))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with quietly():
        tflite = converter.convert()
    stored = int8_kernels(tflite)
    assert len(stored) == 3
    for tensor, weights in zip(stored, sorted(kernels(plain), key=np.size), strict=True):
        assert tensor.size == weights.size
        assert tensor.distinct_per_channel <= len(np.unique(weights))
        if preserve_sparsity:
            assert tensor.zeros >= np.sum(weights == 0)


@pytest.fixture(scope="module")
def keras_3_model(data):
    keras.utils.set_random_seed(0)
    return share(build(keras), data)


# Keras says so of each layer that it leaves as it is.
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
def test_keras_quantizes_to_int8(keras_3_model, data):
    model = keras.models.clone_model(keras_3_model)
    model.set_weights(keras_3_model.get_weights())
    model.quantize("int8")
    before = {layer.name: layer for layer in keras_3_model.layers}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            weights = np.asarray(before[layer.name].kernel)
            integers = np.asarray(layer.kernel)
            assert integers.dtype == np.int8
            np.testing.assert_array_equal(integers == 0, weights == 0)
            # One scale a column: each has as many values as before.
            for one, other in zip(integers.T, weights.T, strict=True):
                assert len(np.unique(one)) <= len(np.unique(other))
    np.testing.assert_allclose(
        model.predict(data[0], verbose=0),
        keras_3_model.predict(data[0], verbose=0),
        atol=0.05,
    )


def test_ai_edge_quantizer_keeps_clusters(keras_3_model, data):
    from ai_edge_quantizer import quantizer, recipe

    tflite = sws.convert_to_tflite(keras_3_model)
    with quietly():
        job = quantizer.Quantizer(tflite, recipe.dynamic_wi8_afp32())
        small = bytes(job.quantize().quantized_model)
    stored = int8_kernels(small)
    assert stored
    for tensor in stored:
        weights = next(w for w in kernels(keras_3_model) if w.size == tensor.size)
        assert tensor.distinct_per_channel <= NUM_COMPONENTS
        assert tensor.zeros >= np.sum(weights == 0)
    assert sws.verify_tflite(small, keras_3_model, data[0]).difference < 0.1


# In one process, in any order.

BOTH = """
import numpy as np
x = np.random.default_rng(0).standard_normal((16, 4)).astype("float32")
for k in (keras, tf_keras):
    model = k.Sequential([k.Input((4,)), k.layers.Dense(8), k.layers.Dense(2)])
    shared = tfmot_sws.apply_soft_weight_sharing(model, num_components=3)
    shared.compile("sgd", "mse")
    shared.fit(x, x[:, :2], verbose=0, epochs=2, callbacks=[tfmot_sws.AnnealAndMerge()])
    plain = tfmot_sws.strip_soft_weight_sharing(shared)
    assert isinstance(plain, k.Model)
    tfmot_sws.convert_to_tflite(plain)
wrapped = tfmot.sparsity.keras.prune_low_magnitude(plain)
assert type(wrapped) is type(plain)
"""
OURS = "import tfmot_sws"
TFMOT = "import tensorflow_model_optimization as tfmot"


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [[OURS, TFMOT], [TFMOT, OURS], ["import tensorflow as tf; tf.keras.layers", OURS, TFMOT]],
    ids=["before", "after", "tf.keras first"],
)
def test_tfmot_before_or_after_us(imports):
    code = "\n".join([*imports, "import keras, tf_keras", BOTH, "print('fine')"])
    assert run_python(code) == "fine"


def test_tf_keras_stays_what_it_was():
    code = f"""
import tensorflow as tf
before = tf.keras.Model
{OURS}
import keras, tf_keras
model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(8)])
tfmot_sws.apply_soft_weight_sharing(model)
print(tf.keras.Model is before and before is keras.Model)
"""
    assert run_python(code) == "True"
