"""Held losses: exact when renewed, unchanged in between, and never saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import GENTLE

import tfmot_sws as sws
from tfmot_sws.prior import held_loss
from tfmot_sws.prior.density_table import total_negative_log_prob
from tfmot_sws.prior.form import stack
from tfmot_sws.prior.held_loss import HeldLoss

K = 5


@pytest.fixture
def weights(rng):
    """A tensor large enough for the table, and a small one."""
    return [rng.normal(0, 0.2, shape).astype("float32") for shape in ((100, 60), (7,))]


@pytest.fixture
def prior(weights):
    prior = sws.GaussianMixturePrior(K, num_tensors=2)
    prior.fit_initial(weights)
    return prior


@pytest.fixture
def held(weights):
    return HeldLoss([w.shape for w in weights], 1, K)


def renew(held, prior, weights, factor):
    """Holds the loss of these weights, as `WeightSharing.renew` does for a whole model."""
    tensors = [tf.convert_to_tensor(w) for w in weights]
    held.assign(held_loss.evaluate([(tensors, prior.tensors())], factor))


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
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_is_exact_when_renewed(factor, graph, held, prior, weights):
    def loss(tensors):
        state, size = stack([prior.state()]), sum(w.size for w in weights)
        mixtures = prior.form.tensors(state)
        held_part = held.loss(tensors, mixtures, factor)
        return held_part + factor * prior.form.hyperprior_loss(mixtures, state, [size])

    renew(held, prior, weights, factor)
    actual = evaluate(tf.function(loss) if graph else loss, prior, weights)
    assert_same(actual, evaluate(lambda w: factor * prior.complexity_loss(w), prior, weights))


def test_holds_until_it_is_renewed(held, prior, weights):
    def loss(tensors):
        return held.loss(tensors, prior.form.tensors(stack([prior.state()])), 1.0)

    moved = [w + np.float32(0.1) for w in weights]
    renew(held, prior, weights, 1.0)
    assert_same(evaluate(loss, prior, moved), evaluate(loss, prior, weights))
    renew(held, prior, moved, 1.0)
    exact = evaluate(lambda w: total_negative_log_prob(w, prior.tensors()), prior, moved)
    assert_same(evaluate(loss, prior, weights), exact)
    before = evaluate(lambda w: total_negative_log_prob(w, prior.tensors()), prior, weights)
    assert exact[0] != pytest.approx(before[0], rel=1e-3)


def wrapped(size, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(size)])
    return sws.apply_soft_weight_sharing(model, **{**GENTLE, **options})


def test_nothing_of_it_is_saved(tmp_path):
    shared = wrapped(8, train_size=64)
    group = shared.groups[0]
    shared.save_weights(tmp_path / "shared.weights.h5")
    held = shared.sharing.held
    renew(held, group.prior, group.variables, 7.0)
    renewed = [np.asarray(tensor) for tensor in held.read()]
    assert np.any(renewed[1])
    shared.load_weights(tmp_path / "shared.weights.h5")
    for now, before in zip(held.read(), renewed, strict=True):
        np.testing.assert_array_equal(now, before)


def losses_of_steps(shared, x, steps=3):
    """The complexity losses of steps of a loop of the user's own."""
    optimizer, losses = keras.optimizers.SGD(1.0), []
    for _ in range(steps):
        with tf.GradientTape() as tape:
            shared(x, training=True)
            loss = sum(shared.losses)
        weights = shared.inner.trainable_weights
        optimizer.apply(tape.gradient(loss, weights), weights)
        losses.append(float(loss))
    return losses


def test_a_loop_of_its_own_evaluates_at_each_step(rng):
    x = rng.standard_normal((4, 10)).astype("float32")
    shared = wrapped(8, train_size=4, complexity_weight=0.1)
    group = shared.groups[0]
    expected = 0.1 / 4 * float(group.prior.complexity_loss(group.tensors()))
    losses = losses_of_steps(shared, x)
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[0] > losses[1] > losses[2]


def test_a_loop_after_an_interrupted_fit_evaluates_at_each_step(rng):
    class Killed(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    x = rng.standard_normal((4, 10)).astype("float32")
    shared = wrapped(8, complexity_weight=0.1)
    shared.compile("sgd", "mse")
    with pytest.raises(KeyboardInterrupt):
        shared.fit(x, x[:, :8], epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge(), Killed()])
    shared.complexity_weight.assign(0.1)
    losses = losses_of_steps(shared, x)
    assert losses[0] > losses[1] > losses[2]


def test_train_on_batch_after_fit_sees_the_present_weights(rng):
    x = rng.standard_normal((64, 10)).astype("float32")
    shared = wrapped(8, complexity_weight=0.1)
    shared.compile("sgd", "mse")
    callback = sws.AnnealAndMerge()
    shared.fit(x, x[:, :8], batch_size=64, epochs=5, verbose=0, callbacks=[callback])
    group = shared.groups[0]
    for variable in group.variables:
        variable.assign(variable + 1.0)
    factor = float(shared.complexity_weight.value) / 64
    shared.sharing.complexity_sum.assign(0.0)
    expected = factor * float(group.prior.complexity_loss(group.tensors()))
    shared.train_on_batch(x, x[:, :8])
    assert float(shared.sharing.complexity_sum.value) == pytest.approx(expected, rel=1e-5)


def train(period, complexity_weight):
    """Weights and complexity losses after a training in which the prior pulls hard."""
    x = np.random.default_rng(0).standard_normal((256, 10)).astype("float32")
    options = sws.PriorOptions(assignment_width=0.3, renewal_period=period)
    shared = wrapped(500, complexity_weight=complexity_weight, options=options)
    shared.compile(keras.optimizers.Adam(1e-3), "mse")
    history = shared.fit(
        x,
        np.tile(x, 50),
        epochs=25,
        batch_size=4,
        verbose=0,
        shuffle=False,
        callbacks=[sws.AnnealAndMerge()],
    ).history
    return np.asarray(shared.inner.layers[0].kernel), history["complexity_loss"]


@pytest.mark.slow
def test_training_at_the_default_period_is_nearly_that_at_period_one():
    tau = 0.05
    exact, exact_losses = train(1, tau)
    period = sws.PriorOptions().renewal_period
    # As many steps as a period needs to be as long as that.
    assert period * 100 == 25 * 256 // 4
    held, held_losses = train(period, tau)
    # What is held of a prior that hardly pulls does not matter.
    without, _ = train(period, 1e-9)
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
    shared = wrapped(500, train_size=64)
    shared.sharing.is_renewed = True
    shared.compile("sgd", "mse")
    batch = tf.zeros((16, 10)), tf.zeros((16, 500))
    graph = tf.function(shared.train_step).get_concrete_function(batch).graph
    for variable in shared.groups[0].prior.trainable_variables:
        (handle,) = (inner for outer, inner in graph.captures if outer is variable.value.handle)
        users = [operation.type for operation in handle.consumers()]
        assert users.count("ReadVariableOp") == 1, variable.path
        assert "AssignSubVariableOp" in users
