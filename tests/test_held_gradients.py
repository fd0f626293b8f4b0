"""Held gradients: exact when renewed, unchanged in between, and never saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmot_sws as sws
from tfmot_sws.held_gradients import HeldGradients

PERIOD = 3
K = 5


@pytest.fixture
def weights(rng):
    """A tensor large enough for the table, and a small one."""
    return [rng.normal(0, 0.2, shape).astype("float32") for shape in ((100, 60), (7,))]


@pytest.fixture
def prior(weights):
    prior = sws.GaussianMixturePrior(K)
    prior.fit_initial(weights)
    return prior


@pytest.fixture
def held(weights):
    return HeldGradients([w.shape for w in weights], K, period=PERIOD)


def evaluate(loss, prior, weights):
    """The loss, and its gradients in the weights and in the prior's variables."""
    tensors = [tf.constant(w) for w in weights]
    variables = [v.value for v in prior.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = loss(tensors)
    gradients = tape.gradient(value, [*tensors, *variables])
    return float(value), [np.asarray(g) for g in gradients]


def assert_same(actual, expected):
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    for one, other in zip(actual[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("graph", [False, True])
def test_first_step_is_exact(graph, held, prior, weights):
    def loss(tensors):
        return held.complexity_loss(prior, tensors)

    actual = evaluate(tf.function(loss) if graph else loss, prior, weights)
    assert_same(actual, evaluate(prior.complexity_loss, prior, weights))


def test_renews_every_period_and_holds_in_between(held, prior, weights):
    @tf.function
    def loss(tensors):
        return held.complexity_loss(prior, tensors)

    moved = [weights, *([w + step for w in weights] for step in np.float32([0.1, 0.2, 0.3]))]
    results = [evaluate(loss, prior, now) for now in moved]
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])
    assert_same(results[3], evaluate(prior.complexity_loss, prior, moved[3]))
    assert results[3][0] != pytest.approx(results[0][0], rel=1e-3)


def test_renew_takes_effect_at_the_next_step(held, prior, weights):
    held.complexity_loss(prior, [tf.constant(w) for w in weights])
    moved = [w + np.float32(0.1) for w in weights]
    held.renew()
    actual = evaluate(lambda t: held.complexity_loss(prior, t), prior, moved)
    assert_same(actual, evaluate(prior.complexity_loss, prior, moved))


def test_hyperpriors_are_exact_at_every_step(held, prior, weights):
    tensors = [tf.constant(w) for w in weights]
    first = float(held.complexity_loss(prior, tensors))
    size = sum(w.size for w in weights)
    before = float(prior.hyperprior_loss(prior.tensors(), size))
    prior.set_widths(stddev=2.0)
    change = float(prior.hyperprior_loss(prior.tensors(), size)) - before
    assert abs(change) > 1.0
    assert float(held.complexity_loss(prior, tensors)) - first == pytest.approx(
        change, rel=1e-3
    )


def test_saved_model_holds_nothing_and_trains_on_alike(tmp_path, rng):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8)])
    shared = sws.apply_soft_weight_sharing(model, num_components=K, train_size=64)
    x = rng.standard_normal((64, 10)).astype("float32")
    shared(x, training=True)
    shared.save(tmp_path / "shared.keras")
    loaded = keras.models.load_model(tmp_path / "shared.keras")
    assert [float(h.age.value) for h in shared.held_gradients] == [1.0]
    assert [float(h.age.value) for h in loaded.held_gradients] == [0.0]


def test_losses_of_training_at_period_one_and_default_are_close(rng):
    x = rng.standard_normal((256, 10)).astype("float32")

    def losses(period):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(500)])
        shared = sws.apply_soft_weight_sharing(
            model, num_components=K, options=sws.PriorOptions(renewal_period=period)
        )
        shared.compile(keras.optimizers.Adam(1e-3), "mse")
        history = shared.fit(
            x,
            np.tile(x, 50),
            epochs=4,
            verbose=0,
            shuffle=False,
            callbacks=[sws.AnnealAndMerge()],
        )
        return history.history["error_loss"]

    np.testing.assert_allclose(losses(8), losses(1), rtol=2e-2)


@pytest.mark.parametrize("period", [0, 1.5])
def test_period_out_of_range(period):
    with pytest.raises(ValueError, match="renewal_period must be an integer of at least 1"):
        sws.PriorOptions(renewal_period=period)
