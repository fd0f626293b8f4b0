"""tf_keras models: what is turned down, resuming, precision, replicas, formats of files."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from families import GENTLE, RANDOM_NETWORKS
from test_imports import run_python
from tf_keras_families import BUILDERS, make_data, sequential

import tfmot_sws as sws
from tfmot_sws.coding import architecture

pytestmark = RANDOM_NETWORKS
DATA = make_data("sequential", np.random.default_rng(0))


def wrap(model=None, **kwargs):
    tf_keras.utils.set_random_seed(3)
    settings = {**GENTLE, "complexity_weight": 1e-3, **kwargs}
    return sws.apply_soft_weight_sharing(model or sequential(tf_keras), **settings)


def fit(model, data=DATA, epochs=2, **kwargs):
    callbacks = [sws.AnnealAndMerge(), *kwargs.pop("callbacks", [])]
    return model.fit(
        *data, epochs=epochs, batch_size=8, verbose=0, callbacks=callbacks, **kwargs
    ).history


def compiled(model, optimizer="adam"):
    model.compile(optimizer, loss="mse")
    return model


# What is turned down, and what is warned of.


def test_unbuilt_and_wrapped_models_are_turned_down():
    with pytest.raises(ValueError, match="not built"):
        sws.apply_soft_weight_sharing(tf_keras.Sequential([tf_keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="already under soft weight-sharing"):
        sws.apply_soft_weight_sharing(wrap())


def test_wrapped_models_are_not_read_as_stripped_ones(tmp_path):
    shared = wrap()
    with pytest.raises(ValueError, match="has not been trained"):
        sws.strip_soft_weight_sharing(shared)
    for read in (
        sws.get_codebooks,
        sws.compression_report,
        sws.convert_to_tflite,
        lambda model: sws.save_compressed(model, tmp_path / "model.sws"),
    ):
        with pytest.raises(TypeError, match="strip_soft_weight_sharing"):
            read(shared)


class Hidden(tf_keras.layers.Layer):
    """Keeps its kernel where it cannot be replaced."""

    def build(self, input_shape):
        self.inside = (object(), {"deep": [self.add_weight("kernel", (input_shape[-1], 3))]})
        super().build(input_shape)

    def call(self, inputs):
        return inputs @ self.inside[1]["deep"][0]


def test_hidden_variable_is_left_out_with_a_reason():
    model = tf_keras.Sequential([tf_keras.Input((10,)), tf_keras.layers.Dense(4), Hidden()])
    reasons = [c.reason for c in wrap(model).weight_choices if not c.shared]
    assert any("not an attribute" in reason for reason in reasons)


def test_missing_callback_is_added_with_a_warning():
    shared = compiled(wrap())
    with pytest.warns(UserWarning, match="without an AnnealAndMerge callback"):
        shared.fit(*DATA, epochs=2, verbose=0)
    assert float(shared.snap.numpy()) > 0


def test_callbacks_of_keras_3_run(tmp_path):
    recorder = sws.WeightMovementRecorder(tmp_path / "movement.gif")
    fit(compiled(wrap()), callbacks=[recorder, sws.SoftWeightSharingSummaries(tmp_path)])
    assert any(path.name.startswith("events") for path in tmp_path.iterdir())


def test_sequence_gives_the_number_of_examples():
    class Batches(tf_keras.utils.Sequence):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return DATA[0][:8], DATA[1][:8]

    shared = compiled(wrap(complexity_weight=None))
    shared.fit(Batches(), verbose=0, callbacks=[sws.AnnealAndMerge()])
    assert shared.train_size == 32


def test_nan_brings_the_last_good_state_back():
    shared = compiled(wrap())
    fit(shared, epochs=1)
    before = shared.get_weights()
    with pytest.warns(UserWarning, match="NaN or infinite"):
        fit(shared, (np.full_like(DATA[0], np.nan), DATA[1]), epochs=2)
    for one, other in zip(before[:4], shared.get_weights()[:4], strict=True):
        np.testing.assert_array_equal(one, other)


def test_keras_must_run_on_tensorflow():
    code = """
import os
os.environ["KERAS_BACKEND"] = "jax"
import tf_keras, tfmot_sws
model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
try:
    tfmot_sws.apply_soft_weight_sharing(model)
except RuntimeError as error:
    print("KERAS_BACKEND=tensorflow" in str(error))
"""
    assert run_python(code) == "True"


# Files from strangers.


def stored(tmp_path, layer):
    inputs = tf_keras.Input((4,))
    model = tf_keras.Model(inputs, layer(tf_keras.layers.Dense(2)(inputs)))
    sws.save_compressed(model, tmp_path / "model.sws")
    return sws.load_compressed(tmp_path / "model.sws")


def test_arithmetic_between_layers_is_stored(tmp_path):
    assert stored(tmp_path, lambda x: x * 2.0 + 1.0)(np.zeros((1, 4))).shape == (1, 2)


@pytest.mark.parametrize(
    "layer", [tf.io.encode_base64, tf_keras.layers.Lambda(lambda x: x)], ids=["name", "code"]
)
def test_functions_that_may_do_anything_are_turned_down(layer, tmp_path):
    def apply(x):
        return layer(tf.strings.as_string(x) if layer is tf.io.encode_base64 else x)

    with pytest.raises(ValueError, match="cannot be stored with"):
        stored(tmp_path, apply)


def test_architecture_that_asks_for_more_memory_is_turned_down():
    model = sequential(tf_keras)
    text = architecture.describe(model)
    kinds = architecture.variables_of(model)
    hostile = text.replace(b'"units": 16'.replace(b" ", b""), b'"units":9000000')
    assert hostile != text
    with pytest.raises(sws.CompressedFileError, match="does not hold"):
        architecture.check_architecture(hostile, kinds, None, len(hostile))


# Layers that train and infer differently.


def test_batch_norm_moves_its_averages_as_in_a_plain_fit():
    data = make_data("functional", np.random.default_rng(0))
    model = BUILDERS["functional"](tf_keras)
    plain = tf_keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    # Nothing is snapped, and hardly pulled: both train alike.
    shared = compiled(wrap(model, complexity_weight=1e-9), "sgd")
    none = sws.AnnealAndMerge(snap=lambda _: 0.0, merge_start=1.0)
    with pytest.warns(UserWarning, match="only 0% of the way to their clusters"):
        shared.fit(*data, batch_size=8, shuffle=False, verbose=0, callbacks=[none])
    compiled(plain, "sgd").fit(*data, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_regularizers_see_the_weights_themselves():
    model = tf_keras.Sequential(
        [tf_keras.Input((10,)), tf_keras.layers.Dense(3, kernel_regularizer="l2")]
    )
    shared = wrap(model, train_size=32)
    shared(DATA[0], training=False)
    expected = 0.01 * np.sum(np.square(model.layers[0].kernel))
    assert float(sum(shared.losses)) == pytest.approx(expected, rel=1e-5)


# Resuming.


class Killed(tf_keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_resume_after_a_kill_equals_the_uninterrupted_run(tmp_path):
    def backup():
        return tf_keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    whole = compiled(wrap())
    fit(whole, epochs=4, shuffle=False)
    first = compiled(wrap())
    with pytest.raises(KeyboardInterrupt):
        fit(first, epochs=4, shuffle=False, callbacks=[backup(), Killed()])
    second = compiled(wrap())
    fit(second, epochs=4, shuffle=False, callbacks=[backup()])
    for one, other in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# Formats of files; `.keras` is with the families.


def test_saved_model_and_weights(tmp_path):
    shared = compiled(wrap())
    fit(shared)
    shared.save(tmp_path / "saved", save_format="tf")
    with sws.soft_weight_sharing_scope():
        loaded = tf_keras.models.load_model(tmp_path / "saved")
    assert type(loaded) is type(shared)
    shared.save_weights(tmp_path / "weights.h5")
    filled = wrap()
    filled.load_weights(tmp_path / "weights.h5")
    for model in (loaded, filled):
        np.testing.assert_allclose(model(DATA[0]), shared(DATA[0]), rtol=1e-5, atol=1e-6)
    fit(loaded, epochs=1)


def test_mixtures_of_layers_in_one_weights_file(tmp_path):
    shared = compiled(wrap(scope="layer"))
    fit(shared)
    shared.save_weights(tmp_path / "weights.h5")
    filled = wrap(scope="layer")
    filled.load_weights(tmp_path / "weights.h5")
    np.testing.assert_allclose(filled(DATA[0]), shared(DATA[0]), rtol=1e-5, atol=1e-6)


# Mixed precision and replicas.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "name"), [("mixed_float16", "recurrent"), ("mixed_bfloat16", "sequential")]
)
def test_mixed_precision(policy, name):
    data = make_data(name, np.random.default_rng(0))
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        shared = compiled(wrap(BUILDERS[name](tf_keras)))
        assert ("LossScale" in type(shared.optimizer).__name__) == (policy == "mixed_float16")
        assert np.all(np.isfinite(fit(shared, data)["loss"]))
        plain = sws.strip_soft_weight_sharing(shared)
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
    assert {layer.dtype_policy.name for layer in plain.layers} == {"float32"}
    np.testing.assert_allclose(plain(data[0]), shared(data[0]), rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_mirrored_strategy_trains_as_one_device():
    # In a process of its own, for TensorFlow makes its devices but once.
    assert (
        float(
            run_python("""
import numpy as np, tensorflow as tf, tf_keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tfmot_sws as sws

def train(strategy):
    with strategy.scope():
        tf_keras.utils.set_random_seed(0)
        model = tf_keras.Sequential([
            tf_keras.Input((10,)), tf_keras.layers.Dense(16, "relu"),
            tf_keras.layers.BatchNormalization(), tf_keras.layers.Dense(3)])
        shared = sws.apply_soft_weight_sharing(
            model, num_components=4, complexity_weight=1e-3, zero_proportion=0.5,
            options=sws.PriorOptions(assignment_width=0.3))
        shared.compile("sgd", "mse")
    x = np.random.default_rng(0).standard_normal((32, 10)).astype("f")
    x = np.repeat(x, 2, 0)  # Both replicas' halves of a batch are alike, for BatchNorm.
    x = x.reshape(8, 4, 2, 10).swapaxes(1, 2).reshape(64, 10)
    history = shared.fit(x, x[:, :3], batch_size=8, epochs=3, shuffle=False, verbose=0,
                         callbacks=[sws.AnnealAndMerge()]).history
    plain = sws.strip_soft_weight_sharing(shared)
    assert all(np.unique(w).size > 2 for w in plain.get_weights() if w.ndim > 1)
    trained = [*plain.get_weights(), *(v.numpy() for v in shared.trainable_variables)]
    logs = [np.asarray(history[key]) for key in ("complexity_loss", "error_loss")]
    return np.concatenate([np.ravel(w) for w in (*trained, *logs)])

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
print(np.abs(train(two) - train(tf.distribute.get_strategy())).max())
""")
        )
        < 1e-4
    )
