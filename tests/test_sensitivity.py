"""Sensitivities against gradients written out by hand, on the network as it is snapped."""

import types

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tf_keras
from families import FAMILIES, GENTLE, sequential

import tfmot_sws as sws
from tfmot_sws.training.observations import separate_values
from tfmot_sws.training.sensitivity import (
    measure_losses,
    measure_sensitivity,
    update_sensitivity,
)

LIBRARIES = {"keras": keras, "tf_keras": tf_keras}


@pytest.fixture
def data(rng):
    x = rng.standard_normal((16, 10)).astype("float32")
    return x, (2 * x[:, :1]).astype("float32")


def wrap(model, loss="mse", **kwargs):
    """Wrapped, half way to the clusters, and compiled."""
    shared = sws.apply_soft_weight_sharing(model, **{**GENTLE, "train_size": 64, **kwargs})
    shared.snap.assign(0.5)
    shared.compile("sgd", loss)
    return shared


def sensitivities(shared):
    return np.concatenate([np.asarray(group.prior.sensitivities) for group in shared.groups])


def snapped_by_hand(shared):
    """What each shared variable is in the call, by variable."""
    values = {}
    for group in shared.groups:
        pairs = zip(group.variables, group.clustered_values(), strict=True)
        snap = float(shared.snap.value)
        for variable, mean in pairs:
            value = np.asarray(variable)
            values[variable.path] = value + snap * (mean.astype("float64") - value)
    return values


def mean_squares(gradients):
    return [np.mean(np.square(np.asarray(g, "float64"))) for g in gradients]


# Dense layers, whose gradient is a few products.


def by_hand(shared, x, y, weight=None):
    """Of a network of two layers under the mean squared error, in float64."""
    first, b, second, c = snapped_by_hand(shared).values()
    hidden = np.maximum(x @ first + b, 0)
    error = hidden @ second + c - y
    scale = 2 / error.size * np.ones(len(x)) if weight is None else 2 / error.size * weight
    upstream = scale[:, None] * error
    below = (upstream @ second.T) * (hidden > 0)
    gradients = x.T @ below, below.sum(0), hidden.T @ upstream, upstream.sum(0)
    return len(x) * np.array(mean_squares(gradients))


def one_by_one(shared, x, y):
    """The mean squared gradient of one observation alone, whose gradients are products.

    Observations are values under the squared error, or classes under the cross-entropy.
    """
    first, b, second, c = snapped_by_hand(shared).values()
    hidden = np.maximum(x @ first + b, 0)
    outputs = hidden @ second + c
    if y.ndim == 2:
        upstreams = [2 * (outputs - y) * value for value in np.eye(y.shape[1])]
    else:
        upstreams = [scipy.special.softmax(outputs, axis=-1) - np.eye(outputs.shape[1])[y]]
    return np.mean([squares_of(x, hidden, second, upstream) for upstream in upstreams], axis=0)


def squares_of(x, hidden, second, upstream):
    """The mean over the examples of the mean squared entries of each gradient."""
    below = (upstream @ second.T) * (hidden > 0)
    squares = [np.mean(np.square(v), axis=1) for v in (x, below, hidden, upstream)]
    of_x, of_below, of_hidden, of_upstream = squares
    products = of_x * of_below, of_below, of_hidden * of_upstream, of_upstream
    return [np.mean(product) for product in products]


def forget(shared):
    """Makes the next batch count alone."""
    for group in shared.groups:
        group.prior.sensitivities.assign(np.zeros(len(group.variables)))


def two_layers(library):
    library.utils.set_random_seed(0)
    relu = library.layers.Dense(16, activation="relu")
    return library.Sequential([library.Input((10,)), relu, library.layers.Dense(1)])


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_is_the_batch_size_times_the_mean_squared_gradient(library, scope, data):
    shared = wrap(two_layers(LIBRARIES[library]), scope=scope)
    update_sensitivity(shared, *data)
    np.testing.assert_allclose(sensitivities(shared), by_hand(shared, *data), rtol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_sample_weights_count(library, data):
    weight = np.linspace(0, 3, 16, dtype="float32")
    shared = wrap(two_layers(LIBRARIES[library]))
    update_sensitivity(shared, *data, weight)
    expected = by_hand(shared, *data, weight)
    np.testing.assert_allclose(sensitivities(shared), expected, rtol=1e-4)


def of_positions(library, steps):
    """Two layers at each of so many positions; all see the same weights."""
    library.utils.set_random_seed(0)
    relu = library.layers.Dense(16, activation="relu")
    return library.Sequential([library.Input((*steps, 10)), relu, library.layers.Dense(4)])


def measure_mean(shared, x, y):
    """The mean of the sensitivities of batches, each measured alone."""
    found = []
    for batch in zip(x, y, strict=True):
        forget(shared)
        update_sensitivity(shared, *batch)
        found.append(sensitivities(shared))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("steps", [(), (64,), (8, 8)])
@pytest.mark.parametrize("library", LIBRARIES)
def test_values_and_positions_count_as_observations_of_their_own(library, steps, rng):
    shared = wrap(of_positions(LIBRARIES[library], steps))
    x = rng.standard_normal((60, 16, *steps, 10)).astype("float32")
    # All values are wrong in one direction, or half of the positions in the other.
    for y in (x[..., :4] + 1, x[..., :4] + np.sign(x[..., 5:6])):
        expected = one_by_one(shared, x.reshape(-1, 10), y.reshape(-1, 4))
        # Signs within an example are the same in all batches, so 16 squares are averaged.
        np.testing.assert_allclose(measure_mean(shared, x, y), expected, rtol=0.5)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_classes_of_a_position_are_one_observation(library, one_hot, rng):
    losses = LIBRARIES[library].losses
    loss = losses.CategoricalCrossentropy if one_hot else losses.SparseCategoricalCrossentropy
    shared = wrap(of_positions(LIBRARIES[library], (64,)), loss(from_logits=True))
    x = rng.standard_normal((60, 16, 64, 10)).astype("float32")
    y = x[..., :4].argmax(-1)
    expected = one_by_one(shared, x.reshape(-1, 10), y.reshape(-1))
    targets = np.eye(4, dtype="float32")[y] if one_hot else y
    np.testing.assert_allclose(measure_mean(shared, x, targets), expected, rtol=0.5)


@pytest.mark.parametrize(
    ("targets", "separate"),
    [
        ([[0, 1], [1, 0]], 0),
        ([[0.3, 0.7], [0.95, 0.05]], 0),
        ([[0, 1], [1, 1]], 1),
        ([[0, 1], [0, 0]], 1),
        ([[-1, 2], [0.5, 0.5]], 1),
        ([3, 4], 0),
    ],
)
def test_shares_of_classes_are_told_from_values(targets, separate):
    assert separate_values(np.array(targets)) == [separate]


@pytest.mark.parametrize("library", LIBRARIES)
def test_outputs_that_are_no_floats_are_left_alone(library, rng):
    layers = LIBRARIES[library].layers
    inputs = LIBRARIES[library].Input((6, 10), dtype="float32")
    scores = layers.Dense(3, name="scores")(inputs)
    found = layers.Lambda(lambda x: x > 0, name="found", output_shape=(6, 3))(scores)
    model = LIBRARIES[library].Model(inputs, {"scores": scores, "found": found})
    shared = wrap(model, {"scores": "mse"})
    x = rng.standard_normal((8, 6, 10)).astype("float32")
    update_sensitivity(shared, x, {"scores": x[..., :3], "found": x[..., :3] > 0})
    assert np.all(sensitivities(shared) > 0)


@pytest.mark.parametrize("library", LIBRARIES)
def test_padded_positions_do_not_count(library, rng):
    layers = LIBRARIES[library].layers
    embedding = layers.Embedding(20, 8, mask_zero=True)
    tokens = rng.integers(1, 20, (8, 12))
    tokens[:, 6:] = 0
    model = LIBRARIES[library].Sequential([embedding, layers.Dense(3)])
    model.build((None, 12))
    shared = wrap(model)
    found = []
    for value in (1, 100):
        targets = np.where(tokens[..., None] > 0, np.float32(1), np.float32(value))
        forget(shared)
        update_sensitivity(shared, tokens, np.repeat(targets, 3, axis=-1))
        found.append(sensitivities(shared))
    assert np.all(found[0] > 0)
    np.testing.assert_array_equal(*found)


def test_of_wrapped_layers(data):
    model = two_layers(tf_keras)
    layers = [
        sws.apply_soft_weight_sharing(layer, train_size=64, **GENTLE) for layer in model.layers
    ]
    wrapped = tf_keras.Sequential([tf_keras.Input((10,)), *layers])
    wrapped.compile("sgd", "mse")
    for layer in layers:
        layer.snap.assign(0.5)
    update_sensitivity(wrapped, *data)
    together = types.SimpleNamespace(
        groups=[group for layer in layers for group in layer.groups], snap=layers[0].snap
    )
    expected = by_hand(together, *data)
    np.testing.assert_allclose(sensitivities(together), expected, rtol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_batch_moves_it_by_a_fifth(library, data):
    x, y = data
    shared = wrap(two_layers(LIBRARIES[library]))
    batches = (x, y), (3 * x, y), (x[:5], y[:5])
    first, second, third = (by_hand(shared, *batch) for batch in batches)
    update_sensitivity(shared, *batches[0])
    np.testing.assert_allclose(sensitivities(shared), first, rtol=1e-4)
    update_sensitivity(shared, *batches[1])
    expected = first + 0.2 * (second - first)
    np.testing.assert_allclose(sensitivities(shared), expected, rtol=1e-4)
    update_sensitivity(shared, *batches[2])
    expected += 0.2 * (third - expected)
    np.testing.assert_allclose(sensitivities(shared), expected, rtol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_not_finite_is_left_out(library, data):
    x, y = data
    shared = wrap(two_layers(LIBRARIES[library]))
    update_sensitivity(shared, x, y)
    before = sensitivities(shared)
    update_sensitivity(shared, np.full_like(x, np.inf), y)
    np.testing.assert_array_equal(sensitivities(shared), before)


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_loss_is_measured_after_another_compile(library, data):
    shared = wrap(two_layers(LIBRARIES[library]))
    update_sensitivity(shared, *data)
    # The same loss times 3.
    shared.compile("sgd", lambda y, p: 3 * keras.ops.mean(keras.ops.square(y - p), axis=-1))
    for group in shared.groups:
        group.prior.sensitivities.assign(np.zeros(len(group.variables), "float32"))
    update_sensitivity(shared, *data)
    np.testing.assert_allclose(sensitivities(shared), 9 * by_hand(shared, *data), rtol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_where_steps_run_eagerly_so_does_the_measuring(library, data):
    shared = wrap(two_layers(LIBRARIES[library]))

    def loss(y, outputs):
        scale = float(np.sum(np.asarray(outputs)) ** 0)  # Of no use in a graph.
        return scale * tf.reduce_mean(tf.square(y - outputs), axis=-1)

    shared.compile("sgd", loss, run_eagerly=True)
    update_sensitivity(shared, *data)
    np.testing.assert_allclose(sensitivities(shared), by_hand(shared, *data), rtol=1e-4)


# Any network, by a tape on a copy that holds the snapped weights.


def plain_copy(shared, build):
    """A network like that beneath `shared`, with the snapped weights."""
    copy = build()
    copy.set_weights([np.asarray(w) for w in shared.inner.weights])
    values = snapped_by_hand(shared)
    sources = [
        getattr(w, "path", None) or w.name.partition(":")[0] for w in shared.inner.weights
    ]
    for target, path in zip(copy.weights, sources, strict=True):
        if path in values:
            target.assign(values[path].astype("float32"))
    shared_paths = {path for path in sources if path in values}
    chosen = [t for t, path in zip(copy.weights, sources, strict=True) if path in shared_paths]
    order = [path for path in sources if path in shared_paths]
    return copy, [chosen[order.index(path)] for path in values]


def by_tape(copy, variables, loss, x, y):
    natives = [getattr(variable, "value", variable) for variable in variables]
    if callable(natives[0]):  # A tf.Variable.
        natives = variables
    with tf.GradientTape() as tape:
        tape.watch(natives)
        total = loss(y, copy(x, training=True)) + sum(copy.losses)
    gradients = tape.gradient(total, natives)
    return len(y) * np.array(mean_squares([tf.convert_to_tensor(g) for g in gradients]))


def embedding(library=keras):
    inputs = library.Input((8,), dtype="int32")
    x = library.layers.Embedding(20, 12)(inputs)
    x = library.layers.GlobalAveragePooling1D()(x)
    return library.Model(inputs, library.layers.Dense(3)(x))


def with_batch_norm(library=keras):
    inputs = library.Input((8, 8, 3))
    x = library.layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = library.layers.ReLU()(library.layers.BatchNormalization()(x))
    x = library.layers.GlobalAveragePooling2D()(x)
    return library.Model(inputs, library.layers.Dense(3)(x))


def regularised(library=keras):
    dense = library.layers.Dense(
        16, kernel_regularizer="l2", activity_regularizer="l2", activation="relu"
    )
    return library.Sequential([library.Input((10,)), dense, library.layers.Dense(3)])


NETWORKS = {
    "embedding": (embedding, lambda g: g.integers(0, 20, (16, 8)).astype("int32")),
    "batch_norm": (with_batch_norm, lambda g: g.standard_normal((16, 8, 8, 3)).astype("f")),
    "regularised": (regularised, lambda g: g.standard_normal((16, 10)).astype("f")),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_is_that_of_a_tape_on_the_snapped_network(library, name, rng):
    build, make_inputs = NETWORKS[name]
    library = LIBRARIES[library]
    library.utils.set_random_seed(0)
    shared = wrap(build(library))
    x, y = make_inputs(rng), rng.integers(0, 3, 16)
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    shared.compile("sgd", loss)
    update_sensitivity(shared, x, y)
    copy, variables = plain_copy(shared, lambda: build(library))
    expected = by_tape(copy, variables, loss, x, y)
    assert np.all(expected > 0)
    np.testing.assert_allclose(sensitivities(shared), expected, rtol=1e-3)


@pytest.mark.parametrize("library", LIBRARIES)
def test_measuring_changes_nothing_else(library, rng):
    """Neither moving averages nor counters nor metrics."""
    library = LIBRARIES[library]
    shared = wrap(with_batch_norm(library))
    shared.compile("adam", "mse", metrics=["mae"])
    x = rng.standard_normal((16, 8, 8, 3)).astype("float32")
    y = rng.standard_normal((16, 3)).astype("float32")
    shared.train_on_batch(x, y)

    def state():
        metrics = [v for metric in shared.metrics for v in metric.variables]
        own = {id(getattr(g.prior.sensitivities, "value", None)) for g in shared.groups}
        variables = [*shared.variables, *shared.optimizer.variables, *metrics]
        natives = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        return [np.asarray(v) for v in natives if id(v) not in own]

    before = state()
    update_sensitivity(shared, x, y)
    measure_losses(shared, x, y)
    after = state()
    assert np.all(sensitivities(shared) > 0)
    for one, other in zip(after, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_several_inputs_and_outputs(rng):
    family = FAMILIES["multi_io"]
    shared = wrap(family.build(), loss={"first": "mse", "second": "mae"})
    x, y = family.make_inputs(rng), family.make_targets(rng)
    # Shares, which are one observation together.
    y = {name: scipy.special.softmax(values, axis=-1) for name, values in y.items()}
    update_sensitivity(shared, x, y)
    copy, variables = plain_copy(shared, family.build)

    def loss(y, outputs):
        square = tf.reduce_mean(tf.square(y["first"] - outputs["first"]))
        return square + tf.reduce_mean(tf.abs(y["second"] - outputs["second"]))

    expected = by_tape(copy, variables, loss, x, y) / len(y) * 32
    np.testing.assert_allclose(sensitivities(shared), expected, rtol=1e-3)


@pytest.mark.parametrize("name", LIBRARIES)
def test_mixed_float16_sees_small_gradients(name, data):
    library = LIBRARIES[name]
    policy = library.mixed_precision
    before = policy.global_policy()
    policy.set_global_policy("mixed_float16")
    try:
        shared = wrap(two_layers(library))
    finally:
        policy.set_global_policy(before)

    def small(y, outputs):
        error = tf.cast(outputs, tf.float32) - tf.cast(y, tf.float32)
        # So that many a gradient is below what float16 can hold.
        return 1e-4 * tf.reduce_mean(tf.square(error), axis=-1)

    shared.compile("sgd", small)
    update_sensitivity(shared, *data)
    expected = 1e-8 * by_hand(shared, *data)
    np.testing.assert_allclose(sensitivities(shared), expected, rtol=0.05)


# Losses of the model's own.


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Reconstruction(keras.layers.Layer):
    """Adds the loss of its second input against its first."""

    def call(self, inputs):
        target, output = inputs
        self.add_loss(keras.ops.mean(keras.ops.square(output - target)))
        return output


class TfKerasReconstruction(tf_keras.layers.Layer):
    def call(self, inputs):
        target, output = inputs
        self.add_loss(tf.reduce_mean(tf.square(output - target)))
        return output


def autoencoder(library):
    inputs = library.Input((10,))
    hidden = library.layers.Dense(16, activation="relu")(inputs)
    kind = Reconstruction if library is keras else TfKerasReconstruction
    return library.Model(inputs, kind()([inputs, library.layers.Dense(10)(hidden)]))


@pytest.mark.parametrize("library", LIBRARIES)
def test_add_loss_is_enough(library, data):
    x, _ = data
    shared = wrap(autoencoder(LIBRARIES[library]), loss=None)
    update_sensitivity(shared, x)
    np.testing.assert_allclose(sensitivities(shared), by_hand(shared, x, x), rtol=1e-4)


# Losses, and that by chance.


@pytest.mark.parametrize("library", LIBRARIES)
def test_by_chance_each_target_goes_to_the_next(library, data):
    x, y = data
    shared = wrap(two_layers(LIBRARIES[library]))
    loss, by_chance = measure_losses(shared, x, y)
    outputs = np.asarray(shared(x), "float64")
    assert loss == pytest.approx(np.mean((outputs - y) ** 2), rel=1e-4)
    shifted = np.concatenate([y[-1:], y[:-1]])
    assert by_chance == pytest.approx(np.mean((outputs - shifted) ** 2), rel=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_by_chance_is_unknown_where_all_targets_are_alike(library, data):
    x, y = data
    shared = wrap(two_layers(LIBRARIES[library]))
    for batch in ((x, np.repeat(y[:1], 16, 0)), (x[:1], y[:1])):
        loss, by_chance = measure_losses(shared, *batch)
        assert np.isfinite(loss)
        assert np.isnan(by_chance)


def test_by_chance_is_unknown_without_targets(data):
    shared = wrap(autoencoder(keras), loss=None)
    loss, by_chance = measure_losses(shared, data[0])
    assert np.isfinite(loss)
    assert np.isnan(by_chance)


# What is turned down.


def test_plain_model_is_turned_down(data):
    with pytest.raises(TypeError, match="expects a model wrapped by apply_soft_weight"):
        measure_sensitivity(sequential(), *data)


@pytest.mark.parametrize("library", LIBRARIES)
def test_model_that_is_not_compiled_is_turned_down(library, data):
    model = two_layers(LIBRARIES[library])
    shared = sws.apply_soft_weight_sharing(model, **GENTLE, train_size=64)
    with pytest.raises(ValueError, match="is not compiled"):
        measure_sensitivity(shared, *data)


@pytest.mark.parametrize("library", LIBRARIES)
def test_widths_and_proportions_follow(library, data):
    shared = wrap(two_layers(LIBRARIES[library]))
    prior = shared.groups[0].prior
    options, members = prior.options, np.array(prior.members)
    measure_sensitivity(shared, *data)
    price = float(shared.complexity_weight.numpy()) / shared.train_size
    free = np.sqrt(options.width_gain * price / np.array(prior.sensitivities, np.float64))
    expected = np.minimum(free, options.assignment_width * np.array(prior.tensor_scales))
    np.testing.assert_allclose(prior.widths, expected, rtol=1e-5)
    assert not np.array_equal(prior.members, members)
