"""Held gradients: exact when renewed, unchanged in between, and never saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import GENTLE

import tfmot_sws as sws
from tfmot_sws.prior.held_loss import HeldGradients

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


def test_a_factor_multiplies_loss_and_gradients(held, prior, weights):
    def loss(factor):
        return lambda tensors: held.complexity_loss(prior, tensors, factor)

    value, gradients = evaluate(loss(1.0), prior, weights)
    held.renew()
    half = evaluate(loss(0.5), prior, weights)
    assert_same(half, (0.5 * value, [0.5 * gradient for gradient in gradients]))


@pytest.mark.parametrize(("factor", "renews"), [(0.95, False), (1.2, True), (0.0, True)])
def test_a_factor_that_moves_by_a_tenth_renews(factor, renews, held, prior, weights):
    held.complexity_loss(prior, [tf.constant(w) for w in weights])
    moved = [w + np.float32(0.1) for w in weights]
    tensors = [tf.constant(w) for w in moved]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = held.complexity_loss(prior, tensors, factor)
    pull = tape.gradient(loss, tensors)[0]
    here = moved if renews else weights
    expected = evaluate(prior.complexity_loss, prior, here)[1][0]
    np.testing.assert_allclose(
        pull, (factor if renews else 1.0) * expected, rtol=1e-5, atol=1e-4
    )
    assert float(held.age.value) == (1.0 if renews else 2.0)


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


def test_loading_has_the_next_step_evaluate_anew(tmp_path, rng):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8)])
    shared = sws.apply_soft_weight_sharing(model, train_size=64, **GENTLE)
    x = rng.standard_normal((64, 10)).astype("float32")
    shared(x, training=True)
    shared.save_weights(tmp_path / "shared.weights.h5")
    assert [float(h.age.value) for h in shared.held_gradients] == [1.0]
    shared.load_weights(tmp_path / "shared.weights.h5")
    assert [float(h.age.value) for h in shared.held_gradients] == [0.0]


def train(period, complexity_weight):
    """Weights and complexity losses after a training in which the prior pulls hard."""
    x = np.random.default_rng(0).standard_normal((256, 10)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(500)])
    options = sws.PriorOptions(assignment_width=0.3, renewal_period=period)
    shared = sws.apply_soft_weight_sharing(
        model, complexity_weight=complexity_weight, **{**GENTLE, "options": options}
    )
    shared.compile(keras.optimizers.Adam(1e-3), "mse")
    history = shared.fit(
        x,
        np.tile(x, 50),
        epochs=4,
        batch_size=16,
        verbose=0,
        shuffle=False,
        callbacks=[sws.AnnealAndMerge()],
    ).history
    return np.asarray(model.layers[0].kernel), history["complexity_loss"]


def test_training_at_the_default_period_is_nearly_that_at_period_one():
    tau = 0.05
    exact, exact_losses = train(1, tau)
    held, held_losses = train(sws.PriorOptions().renewal_period, tau)
    without, _ = train(1, 1e-9)
    pull = np.linalg.norm(exact - without)
    assert pull > 0.5 * np.linalg.norm(exact)
    assert np.linalg.norm(held - exact) < 0.05 * pull
    np.testing.assert_allclose(held_losses, exact_losses, rtol=2e-2)


@pytest.mark.parametrize("period", [0, 1.5])
def test_period_out_of_range(period):
    with pytest.raises(ValueError, match="renewal_period must be an integer of at least 1"):
        sws.PriorOptions(renewal_period=period)


def test_a_training_step_reads_each_variable_of_the_mixture_once():
    """A second reading could come after the step's update, since nothing would order them."""
    shared = sws.apply_soft_weight_sharing(
        keras.Sequential([keras.Input((10,)), keras.layers.Dense(500)]), train_size=64, **GENTLE
    )
    shared.compile("sgd", "mse")
    batch = tf.zeros((16, 10)), tf.zeros((16, 500))
    graph = tf.function(shared.train_step).get_concrete_function(batch).graph
    for variable in shared.priors[0].trainable_variables:
        (handle,) = (inner for outer, inner in graph.captures if outer is variable.value.handle)
        users = [operation.type for operation in handle.consumers()]
        assert users.count("ReadVariableOp") == 1, variable.path
        assert "AssignSubVariableOp" in users
