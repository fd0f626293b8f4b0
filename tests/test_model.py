"""The wrapper: what it takes and turns down, its loss, and how it trains and resumes."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from families import FAMILIES, GENTLE, RANDOM_NETWORKS, sequential

import tfmot_sws as sws

pytestmark = RANDOM_NETWORKS


@pytest.fixture
def data(rng):
    x = rng.standard_normal((64, 10)).astype("float32")
    return x, (x[:, :3] * 2).astype("float32")


def wrap(**kwargs):
    keras.utils.set_random_seed(3)
    return sws.apply_soft_weight_sharing(sequential(), num_components=5, **kwargs)


def fit(model, data, epochs=2, **kwargs):
    callbacks = [sws.AnnealAndMerge(), *kwargs.pop("callbacks", [])]
    return model.fit(*data, epochs=epochs, verbose=0, callbacks=callbacks, **kwargs)


# What is turned down.


def test_unbuilt_model_is_turned_down():
    with pytest.raises(ValueError, match=r"not built.*Call it once on a batch"):
        sws.apply_soft_weight_sharing(keras.Sequential([keras.layers.Dense(2)]))


def test_wrapped_model_is_turned_down():
    with pytest.raises(ValueError, match="already under soft weight-sharing"):
        sws.apply_soft_weight_sharing(wrap())


def test_nothing_to_share_lists_the_variables():
    with pytest.raises(ValueError, match=r"no weights to share(.|\n)*kernel"):
        wrap(include=lambda _: False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_components": 1}, "num_components must be an integer from 2"),
        ({"zero_proportion": 1.0}, "zero_proportion must lie strictly between 0 and 1"),
        ({"complexity_weight": -1.0}, "complexity_weight must be above 0"),
        ({"train_size": 0}, "train_size must be above 0"),
        ({"scope": "tensor"}, "scope must be 'model' or 'layer'"),
        ({"include": "("}, "include must be a regular expression"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        sws.apply_soft_weight_sharing(sequential(), **arguments)


def test_nan_weights_are_named():
    model = sequential()
    kernel = model.layers[0].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match=r"dense.*/kernel' .* 160 NaN or infinite"):
        sws.apply_soft_weight_sharing(model)


def test_other_objects_are_turned_down():
    with pytest.raises(TypeError, match=r"keras\.Model is expected; received Dense"):
        sws.apply_soft_weight_sharing(keras.layers.Dense(3))


# What is shared.


def test_shared_weights_give_reasons():
    model = FAMILIES["nested"].build()
    shared = sws.apply_soft_weight_sharing(model, exclude="dense")
    reasons = {c.path.rpartition("/")[2] + c.reason for c in shared.weight_choices}
    assert "kernelnot trainable" in reasons
    assert "kernelexcluded by exclude=" in reasons
    assert [c.shape for c in shared.weight_choices if c.shared] == [(3, 3, 3, 6), (6,)]


def test_include_takes_a_predicate():
    shared = wrap(include=lambda variable: variable.name == "bias")
    assert [c.shape for c in shared.weight_choices if c.shared] == [(16,), (3,)]


def test_scope_model_gives_all_one_mixture():
    (group,) = wrap(scope="model").groups
    assert len(group.variables) == 4
    assert group.prior.num_tensors == 4


def test_each_layer_has_a_mixture(data):
    shared = wrap()
    assert len(shared.groups) == 2
    shared.compile("adam", "mse")
    fit(shared, data)
    plain = sws.strip_soft_weight_sharing(shared)
    for layer, prior in zip(plain.layers, (g.prior for g in shared.groups), strict=True):
        means = prior.mixture().means.astype("float32")
        assert set(np.unique(layer.kernel)) <= set(means)


# The loss.


def test_loss_is_the_error_plus_the_scaled_complexity(data):
    shared = wrap(train_size=640, complexity_weight=0.3)
    outputs = shared(data[0], training=True)
    total = 0.0
    for prior, variables in ((group.prior, group.variables) for group in shared.groups):
        weights, mixture = [np.asarray(v) for v in variables], prior.mixture()
        nats = -sum(mixture.log_prob(w).sum() for w in weights)
        size = sum(w.size for w in weights)
        total += nats + float(prior.form.hyperprior_loss(prior.tensors(), prior.state(), size))
    assert float(sum(shared.losses)) == pytest.approx(0.3 / 640 * total, rel=1e-4)
    assert outputs.shape == (64, 3)


def test_no_complexity_outside_training(data):
    shared = wrap(train_size=64)
    shared(data[0], training=False)
    assert shared.losses == []


def test_inner_losses_count_once():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l2")
    model = keras.Model(inputs, dense(inputs))
    x = np.ones((2, 4), "float32")
    model(x, training=True)
    expected = float(sum(model.losses))
    shared = sws.apply_soft_weight_sharing(model, train_size=2)
    shared(x, training=False)
    assert float(sum(shared.losses)) == pytest.approx(expected, rel=1e-6)


def test_custom_loop_trains_through_losses(data):
    shared = wrap(train_size=64)
    optimizer = keras.optimizers.Adam(1e-2)
    x, y = data
    history = []
    for _ in range(30):
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(shared(x, training=True) - y))
            loss = error + sum(shared.losses)
        gradients = tape.gradient(loss, shared.trainable_variables)
        assert all(g is not None for g in gradients)
        optimizer.apply(gradients, shared.trainable_variables)
        history.append(float(loss))
    assert history[-1] < history[0]


def test_custom_loop_without_train_size_says_what_to_pass(data):
    with pytest.raises(ValueError, match="pass train_size= to apply_soft_weight_sharing"):
        wrap()(data[0], training=True)


# Training.


def test_fit_finds_the_train_size(data):
    shared = wrap()
    shared.compile("sgd", "mse")
    fit(shared, data, validation_split=0.25)
    assert shared.train_size == 48


def test_fit_on_empty_data_is_turned_down():
    shared = wrap()
    shared.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no training examples"):
        fit(shared, (np.zeros((0, 10), "float32"), np.zeros((0, 3), "float32")))


def test_fit_without_the_callback_adds_it_and_says_so(data):
    shared = wrap()
    shared.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="the default one was added"):
        history = shared.fit(*data, epochs=1, verbose=0)
    assert "bits_per_weight" in history.history


@pytest.mark.parametrize("jit_compile", [True, False])
def test_jit_and_plain_train_alike(data, jit_compile):
    shared = wrap()
    shared.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=jit_compile)
    losses = fit(shared, data, shuffle=False).history["loss"]
    reference = wrap()
    reference.compile(keras.optimizers.SGD(1e-3), "mse", run_eagerly=True)
    expected = fit(reference, data, shuffle=False).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_whole_step_under_xla_with_enough_weights_for_the_table(data):
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(600)])
    shared = sws.apply_soft_weight_sharing(model, num_components=4)
    shared.compile("adam", "mse", jit_compile=True)
    history = fit(shared, (data[0], np.tile(data[0], 60)), epochs=1).history
    assert np.all(np.isfinite(history["loss"]))


def test_whole_step_under_xla_copies_neither_weights_nor_what_is_held():
    model = keras.Sequential([keras.Input((160,)), keras.layers.Dense(90)])
    shared = sws.apply_soft_weight_sharing(model, num_components=4, train_size=8)
    shared.compile("adam", "mse", jit_compile=True)
    batch = tf.zeros((8, 160)), tf.zeros((8, 90))
    shared.train_on_batch(*batch)
    step = tf.function(lambda x, y: shared.train_step((x, y)), jit_compile=True)
    program = step.experimental_get_compiler_ir(*batch)(stage="optimized_hlo")
    assert "f32[160,90]" in program
    # Of variables, or of what a branch was given; the table's sums are smaller than the kernel.
    pattern = r"= f32\[([\d,]+)\]\S* copy\(%(?:arg|get-tuple-element)"
    shapes = re.findall(pattern, program)
    sizes = [np.prod([int(size) for size in shape.split(",")]) for shape in shapes]
    assert max(sizes, default=0) < 160 * 90, shapes


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(data, policy):
    with_policy = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(16, activation="relu", dtype=policy),
            keras.layers.Dense(3, dtype="float32"),
        ]
    )
    shared = sws.apply_soft_weight_sharing(with_policy, num_components=4)
    shared.compile("adam", "mse")
    history = fit(shared, data).history
    assert np.all(np.isfinite(history["loss"]))
    plain = sws.strip_soft_weight_sharing(shared)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
    assert {v.dtype for v in shared.groups[0].variables} == {"float32"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_for_all_layers(data, policy):
    """As the guide of Keras has it."""
    keras.config.set_dtype_policy(policy)
    try:
        shared = sws.apply_soft_weight_sharing(sequential(), num_components=4)
    finally:
        keras.config.set_dtype_policy("float32")
    shared.compile("adam", "mse")
    assert np.all(np.isfinite(fit(shared, data).history["loss"]))
    variables = shared.groups[0].prior.variables
    assert {v.dtype for v in variables} == {"float32"}
    plain = sws.strip_soft_weight_sharing(shared)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("library", [keras, tf_keras])
def test_optimizer_that_averages_weights_is_refused(library, policy):
    layer = library.layers.Dense(3, dtype=policy)
    shared = sws.apply_soft_weight_sharing(library.Sequential([library.Input((10,)), layer]))
    shared.compile(library.optimizers.Adam(use_ema=True), "mse")
    before = shared.get_weights()
    x = np.zeros((8, 10), "float32")
    with pytest.raises(ValueError, match="Adam has use_ema=True"):
        shared.fit(x, x[:, :3], callbacks=[sws.AnnealAndMerge()])
    for one, other in zip(shared.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def _wrap_gently():
    keras.utils.set_random_seed(3)
    shared = sws.apply_soft_weight_sharing(sequential(), **GENTLE)
    shared.compile("adam", "mse")
    return shared


def _trained(model):
    """All variables but the gradients held for the next steps, which pass."""
    return [np.asarray(v) for v in model.variables if "held_loss" not in v.name]


def test_resume_after_a_kill_equals_the_uninterrupted_run(data, tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def run(*callbacks):
        shared = _wrap_gently()
        fit(shared, data, epochs=4, shuffle=False, batch_size=16, callbacks=list(callbacks))
        return shared

    expected = _trained(run())
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        run(backup, Killed())
    resumed = _trained(run(keras.callbacks.BackupAndRestore(tmp_path / "backup")))
    for one, other in zip(resumed, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# One step an epoch, or many.
@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "epochs", "killed"), [(64, 60, 25), (2, 3, 1)])
def test_resume_measures_and_merges_as_the_uninterrupted_run(
    batch_size, epochs, killed, data, tmp_path
):
    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == killed:
                raise KeyboardInterrupt

    def run(*callbacks):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(3)])
        shared = sws.apply_soft_weight_sharing(model, num_components=12, complexity_weight=0.05)
        shared.compile(keras.optimizers.Adam(0.01), "mse")
        settings = {"epochs": epochs, "batch_size": batch_size, "shuffle": False}
        fit(shared, data, callbacks=list(callbacks), **settings)
        return shared

    expected = run()
    assert 2 < expected.groups[0].prior.alive_slots.size < 12
    with pytest.raises(KeyboardInterrupt):
        run(keras.callbacks.BackupAndRestore(tmp_path / "backup"), Killed())
    resumed = _trained(run(keras.callbacks.BackupAndRestore(tmp_path / "backup")))
    for one, other in zip(resumed, _trained(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_saved_model_goes_on_with_its_optimizer(data, tmp_path):
    shared = _wrap_gently()
    fit(shared, data)
    shared.save(tmp_path / "shared.keras")
    loaded = keras.models.load_model(tmp_path / "shared.keras")
    for model in (shared, loaded):
        fit(model, data, epochs=4, initial_epoch=2, shuffle=False)
    for one, other in zip(_trained(loaded), _trained(shared), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_model_with_attributes_of_our_names_is_a_plain_model(library, tmp_path):
    """Detectors have `priors`, and what is wrapped is told by its type."""
    model = library.Sequential([library.layers.Dense(4, name="head")])
    model.build((None, 6))
    model.priors, model.groups, model.sharing = [1.0], [2.0], None
    sws.compression_report(model)
    sws.save_compressed(model, tmp_path / "plain.sws")
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    x = np.zeros((8, 6), "float32")
    shared.compile("sgd", "mse")
    shared.fit(x, x[:, :4], epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge()])
    plain = sws.strip_soft_weight_sharing(shared)
    assert type(plain) is library.Sequential
    with pytest.raises(TypeError, match="expects a model wrapped"):
        sws.strip_soft_weight_sharing(model)
