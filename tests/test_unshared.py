"""Vectors that are not shared: rounded in training; BatchNorm in its short form."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import GENTLE, RANDOM_NETWORKS
from keras import layers

import tfmot_sws as sws
from tfmot_sws.prior.rounding import round_significant
from tfmot_sws.training.unshared import SCALE_BITS

pytestmark = RANDOM_NETWORKS
SHAPE = (6, 6, 3)


def randomise(model, rng):
    """Weights as after training: no statistic is 0 or 1."""
    for layer in model.layers:
        if "norm" in layer.name:
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def make(library, norms=({}, {}), first=None):
    """A network with BatchNorm behind a layer and elsewhere, LayerNorm, and biases."""
    kinds = library.layers
    inputs = library.Input(SHAPE)
    x = kinds.Conv2D(4, 3, bias_initializer="ones", name="conv")(inputs)
    x = kinds.ReLU()(kinds.BatchNormalization(name="norm", **norms[0])(x, **(first or {})))
    x = kinds.BatchNormalization(name="norm_2", **norms[1])(x)
    x = kinds.LayerNormalization(name="layer_norm")(kinds.GlobalAveragePooling2D()(x))
    return library.Model(inputs, kinds.Dense(3, name="dense")(x))


def wrap(model, **options):
    """As after a training: everything is snapped."""
    shared = sws.apply_soft_weight_sharing(model, **{**GENTLE, **options})
    shared.snap.assign(1.0)
    return shared


@pytest.fixture
def x(rng):
    return rng.standard_normal((5, *SHAPE)).astype("float32")


def significant_bits(values):
    """The most significant bits that any of the values has."""
    mantissas = np.frexp(np.asarray(values, np.float64))[0] * 2.0**24
    return max(24 - (int(m) & -int(m)).bit_length() + 1 for m in mantissas if m)


def check_short(plain, bias):
    mean, variance = plain.get_layer("norm").get_weights()[-2:]
    assert not mean.any()
    assert np.all(variance == 1)
    assert bool(np.any(plain.get_layer("conv").get_weights()[1])) == bias
    assert not plain.get_layer("norm").trainable


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_stripping_gives_what_the_wrapped_model_computes(library, rng, x):
    shared = wrap(randomise(make(pytest.importorskip(library)), rng))
    expected = np.asarray(shared(x))
    plain = sws.strip_soft_weight_sharing(shared)
    check_short(plain, bias=False)
    np.testing.assert_allclose(plain(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(plain(x, training=True), expected, rtol=1e-5, atol=1e-5)
    gamma, beta = plain.get_layer("norm").get_weights()[:2]
    assert significant_bits(gamma) <= SCALE_BITS
    # The deviations lie between 0.7 and 1.3, and with them the spread.
    np.testing.assert_array_equal(beta * 32, np.round(beta * 32))
    assert significant_bits(plain.get_layer("layer_norm").get_weights()[0]) <= SCALE_BITS

    kept = sws.strip_soft_weight_sharing(shared, keep_statistics=True)
    np.testing.assert_allclose(kept(x), expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        kept.get_layer("norm").get_weights()[-2:],
        shared.inner.get_layer("norm").get_weights()[-2:],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert kept.get_layer("norm").trainable


@pytest.mark.parametrize("missing", ["scale", "center"])
def test_batch_norm_with_three_vectors(missing, rng, x):
    shared = wrap(randomise(make(keras, ({missing: False}, {missing: False})), rng))
    plain = sws.strip_soft_weight_sharing(shared)
    np.testing.assert_allclose(plain(x), shared(x), rtol=1e-5, atol=1e-5)
    mean, variance = plain.get_layer("norm").get_weights()[-2:]
    assert np.all(variance == 1) if missing == "center" else not mean.any()
    assert not np.any(plain.get_layer("conv").bias)


def test_unrounded_vectors_stay_float32_in_the_short_form(rng, x):
    model = randomise(make(keras), rng)
    shared = wrap(model, rounding=False)
    plain = sws.strip_soft_weight_sharing(shared)
    check_short(plain, bias=False)
    np.testing.assert_allclose(plain(x), shared(x), rtol=1e-5, atol=1e-5)
    gamma, _, _, variance = (np.asarray(w, np.float64) for w in model.get_layer("norm").weights)
    expected = gamma * np.sqrt(1.001) / np.sqrt(variance + 0.001)
    np.testing.assert_allclose(plain.get_layer("norm").gamma, expected, rtol=1e-6)


def in_training_mode():
    return make(keras, first={"training": True})


def inner_in_training_mode():
    inner = keras.Sequential([keras.Input(SHAPE), layers.BatchNormalization(name="norm")])
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layers.Conv2D(4, 3)(inner(inputs, training=True)))


class Own(keras.Model):
    """A graph of Keras with a call of its own."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def call_of_its_own():
    inputs = keras.Input(SHAPE)
    norm = layers.BatchNormalization(name="norm")
    return Own(inputs, norm(layers.Conv2D(4, 3)(inputs)))


@pytest.mark.parametrize(
    "build",
    [
        in_training_mode,
        inner_in_training_mode,
        call_of_its_own,
    ],
)
def test_batch_norm_that_may_be_in_training_mode_keeps_its_vectors(build, x):
    shared = wrap(build())
    expected = np.asarray(shared(x))
    before = [np.asarray(v) for v in shared.inner.variables if "norm/moving" in v.path]
    plain = sws.strip_soft_weight_sharing(shared)
    after = [np.asarray(v) for v in plain.variables if "norm/moving" in v.path]
    assert len(before) == 2
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(plain(x), expected, rtol=1e-4, atol=1e-4)


def test_bias_that_is_read_elsewhere_stays(rng, x):
    inputs = keras.Input(SHAPE)
    y = layers.Conv2D(4, 3, bias_initializer="ones", name="conv")(inputs)
    y = layers.Add()([y, layers.BatchNormalization(name="norm")(y)])
    shared = wrap(randomise(keras.Model(inputs, y), rng))
    plain = sws.strip_soft_weight_sharing(shared)
    check_short(plain, bias=True)
    np.testing.assert_allclose(plain(x), shared(x), rtol=1e-5, atol=1e-5)


def test_large_means_do_not_coarsen_the_offsets(rng):
    """BatchNorm of a number like a year: its offset is hundreds of times its scale."""
    # By chance a weight may lie where rounded means give it another one.
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dense(3)])
    model.layers[0].set_weights([np.ones(4), np.zeros(4), np.full(4, 2e3), np.full(4, 9.0)])
    years = (2e3 + 3 * rng.standard_normal((50, 4))).astype("float32")
    shared = wrap(model, rounding=True)
    exact = keras.models.clone_model(model)
    exact.set_weights(model.get_weights())
    exact = wrap(exact, rounding=False)
    difference = np.asarray(shared(years)) - np.asarray(exact(years))
    assert np.abs(difference).max() < 0.2
    plain = sws.strip_soft_weight_sharing(shared)
    np.testing.assert_allclose(plain(years), shared(years), atol=1e-3)


def test_dead_scales_leave_finite_numbers(rng, x):
    model = randomise(make(keras), rng)
    for name in ("norm", "layer_norm"):
        model.get_layer(name).gamma.assign(np.zeros(4))
    shared = wrap(model)
    plain = sws.strip_soft_weight_sharing(shared)
    assert np.all(np.isfinite(shared(x)))
    np.testing.assert_allclose(plain(x), shared(x), atol=1e-5)


def test_gradient_passes_straight_through(rng, x):
    """It is that at the rounded vectors."""
    shared = wrap(randomise(make(keras), rng))
    kept = sws.strip_soft_weight_sharing(shared, keep_statistics=True)

    def gradients(model, inner):
        wanted = [inner.get_layer(name).gamma.value for name in ("norm", "layer_norm")]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x) ** 2)
        return tape.gradient(loss, wanted)

    pairs = zip(gradients(shared, shared.inner), gradients(kept, kept), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_negative_zeros_become_zero(rng):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dense(3, name="out")])
    kernel = rng.standard_normal((4, 3)).astype("float32")
    kernel[:2] *= -0.0
    model.layers[-1].kernel.assign(kernel)
    assert np.any(np.signbit(kernel) & (kernel == 0))
    plain = sws.strip_soft_weight_sharing(wrap(model, exclude="out"))
    stripped = np.asarray(plain.layers[-1].kernel)
    np.testing.assert_array_equal(stripped, kernel)
    assert not np.any(np.signbit(stripped) & (stripped == 0))


def test_configuration_keeps_what_is_rounded(rng):
    shared = wrap(randomise(make(keras), rng))
    config = shared.get_config()
    again = type(shared).from_config(copy.deepcopy(config))
    assert again.sharing.unshared.to_config() == shared.sharing.unshared.to_config()
    # As written before anything was rounded.
    del config["sharing"]["unshared"]
    assert type(shared).from_config(config).sharing.unshared.taken_variables == []


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_rounding_to_significant_bits_is_that_of_numpy(bits, rng):
    powers = 2.0 ** np.arange(-20, 20)
    values = np.concatenate(
        [rng.standard_normal(200) * 10.0 ** rng.integers(-9, 9, 200), powers]
    )
    values = np.concatenate([values, -values, np.nextafter(powers, 0), [0.0]]).astype(
        np.float32
    )
    mantissa, exponent = np.frexp(values.astype(np.float64))
    expected = np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)
    np.testing.assert_array_equal(np.asarray(round_significant(values, bits)), expected)
