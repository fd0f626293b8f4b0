"""The trainable mixture: its loss, its learning rates, and what is set and read back."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit
from scipy.stats import beta, gamma

from tfmot_sws.prior.assignment import Part
from tfmot_sws.prior.hyperpriors import BetaHyperprior, GammaHyperprior
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.options import LearningRates, PriorOptions
from tfmot_sws.prior.snapping import snap_to_means
from tfmot_sws.prior.trainable import GaussianMixturePrior

PLAIN = LearningRates(1.0, 1.0, 1.0)
MIXTURE = GaussianMixture([0, -0.4, 0.1, 0.3], [0.05, 0.1, 0.08, 0.2], [0.9, 0.05, 0.03, 0.02])


@pytest.fixture
def weights(rng):
    """Two tensors, together enough for the table."""
    return [
        rng.normal(0, 0.3, (80, 60)).astype("float32"),
        rng.normal(0, 0.1, 1000).astype("float32"),
    ]


def make_prior(weights, zero_proportion=0.9, rates=None, num_components=4):
    options = PriorOptions(learning_rates=rates or LearningRates())
    prior = GaussianMixturePrior(
        num_components,
        zero_proportion=zero_proportion,
        options=options,
        num_tensors=len(weights),
    )
    prior.fit_initial(weights)
    if num_components == 4:
        prior.set_mixture(MIXTURE, np.arange(4))
    return prior


def gradients(prior, weights):
    """Loss, and its gradient in the trained variable, by field."""
    (variable,) = prior.trainable_variables
    with tf.GradientTape() as tape:
        loss = prior.complexity_loss([tf.constant(w) for w in weights])
    gradient = prior.form.by_field(tape.gradient(loss, variable.value))
    return loss, {field: part.numpy() for field, part in gradient.items()}


def expected_loss(prior, mixture, weights):
    """-log p(w) and the hyperpriors in float64, by SciPy."""
    loss = -sum(mixture.log_prob(w).sum() for w in weights)
    kinds = np.minimum(np.arange(mixture.num_components), 1)
    size = sum(w.size for w in weights)
    hyperpriors = prior.options.zero, prior.options.others
    alphas = np.array([h.alpha(size) for h in hyperpriors])[kinds]
    widths = np.asarray(prior.target_stddevs.value, "float64")[kinds]
    scales = 1 / (alphas * widths**2)
    loss -= gamma.logpdf(mixture.precisions, alphas, scale=scales).sum()
    if isinstance(prior.zero_proportion, BetaHyperprior):
        pi, belief = mixture.mixing_proportions[0], prior.zero_proportion
        loss -= beta.logpdf(pi, belief.alpha, belief.beta)
    return loss


# The loss.


@pytest.mark.parametrize("zero_proportion", [None, 0.9, BetaHyperprior(900.0, 100.0)])
def test_complexity_loss_is_scipys(zero_proportion, weights):
    prior = make_prior(weights, zero_proportion)
    prior.set_widths(stddev=1.5)
    expected = expected_loss(prior, MIXTURE, weights)
    assert float(prior.complexity_loss(weights)) == pytest.approx(expected, rel=1e-4)


def test_dead_components_have_no_hyperprior(weights):
    prior = make_prior(weights)
    alive = MIXTURE.select(np.array([True, False, True, False]))
    prior.set_mixture(alive, np.array([0, 2]))
    expected = expected_loss(prior, alive, weights)
    assert float(prior.complexity_loss(weights)) == pytest.approx(expected, rel=1e-4)


def test_dead_slots_get_no_gradient(weights):
    prior = make_prior(weights, num_components=6)
    prior.set_mixture(MIXTURE.select(np.array([1, 1, 0, 1], bool)), np.array([0, 2, 4]))
    _, found = gradients(prior, weights)
    np.testing.assert_array_equal(found["means"] != 0, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found["log_precisions"] != 0, [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found["log_proportions"] != 0, [0, 1, 0, 1, 0])


def test_learned_zero_proportion_against_finite_differences(weights):
    prior = make_prior(weights, BetaHyperprior(900.0, 100.0))
    _, found = gradients(prior, weights)

    def loss(logit):
        others = MIXTURE.mixing_proportions[1:] / MIXTURE.mixing_proportions[1:].sum()
        pi = np.concatenate([[expit(logit)], expit(-logit) * others])
        mixture = GaussianMixture(MIXTURE.means, MIXTURE.stddevs, pi)
        return expected_loss(prior, mixture, weights)

    logit, step = np.log(0.9 / 0.1), 1e-4
    expected = (loss(logit + step) - loss(logit - step)) / (2 * step)
    np.testing.assert_allclose(found["zero_logit"], [expected], rtol=1e-3)


def test_fixed_zero_proportion_does_not_move(weights):
    prior = make_prior(weights)
    assert "zero_logit" not in gradients(prior, weights)[1]
    for variable in prior.trainable_variables:
        variable.assign(variable + 1.0)
    assert prior.mixture().mixing_proportions[0] == pytest.approx(0.9)


# Learning rates.


def parameters(prior):
    """mu, log lambda, and rho up to its arbitrary offset."""
    means, log_precisions, log_proportions = (f.numpy() for f in prior.tensors())
    rho = log_proportions[1:] - log_proportions[1:].mean()
    return [means[1:], log_precisions, rho]


def directions(prior, weights):
    """The gradient in each field, scaled to 1."""
    return [part / np.abs(part).max() for part in gradients(prior, weights)[1].values()]


def moves(prior, weights, optimizer, steps=3):
    """How far each parameter goes in a few steps along the scaled gradient."""
    before, along = parameters(prior), np.concatenate(directions(prior, weights))
    for _ in range(steps):
        optimizer.apply_gradients([(along, prior.trainable_variables[0])])
    return [b - a for a, b in zip(before, parameters(prior), strict=True)]


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        (keras.optimizers.SGD, {}),
        (keras.optimizers.SGD, {"momentum": 0.9}),
        (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        (keras.optimizers.Adam, {}),
    ],
)
def test_learning_rates_hold_under_any_optimizer(optimizer, arguments, weights):
    rates = LearningRates(means=0.2, log_precisions=6.0, log_proportions=3.0)
    plain, scaled = (
        moves(make_prior(weights, rates=r), weights, optimizer(learning_rate=0.01, **arguments))
        for r in (PLAIN, rates)
    )
    for one, other, rate in zip(plain, scaled, dataclasses.astuple(rates), strict=True):
        assert np.abs(one).max() > 0.01
        np.testing.assert_allclose(other, rate * one, rtol=1e-3, atol=1e-5)


def test_plain_step_of_sgd_is_rate_times_gradient(weights):
    expected = directions(make_prior(weights, rates=PLAIN), weights)[:2]
    prior = make_prior(weights, rates=LearningRates(means=0.5, log_precisions=4.0))
    sgd = keras.optimizers.SGD(0.01)
    for_means, for_precisions, _ = moves(prior, weights, sgd, steps=1)
    np.testing.assert_allclose(for_means, -0.005 * expected[0], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(for_precisions, -0.04 * expected[1], rtol=1e-3, atol=1e-5)


# What is set and read back.


def assert_mixtures_close(first, second):
    for field in dataclasses.fields(GaussianMixture):
        pair = getattr(first, field.name), getattr(second, field.name)
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("zero_proportion", [None, 0.9, BetaHyperprior(5.0, 1.0)])
@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [0, 2, 3, 7]])
def test_mixture_round_trip(zero_proportion, slots):
    prior = GaussianMixturePrior(8, zero_proportion=zero_proportion)
    prior.set_mixture(MIXTURE, np.array(slots))
    np.testing.assert_array_equal(prior.alive_slots, slots)
    assert_mixtures_close(prior.mixture(), MIXTURE)


@pytest.mark.parametrize("zero_proportion", [None, 0.9, BetaHyperprior(5.0, 1.0)])
def test_zero_component_alone_stays_finite(zero_proportion, weights):
    prior = make_prior(weights, zero_proportion)
    prior.set_mixture(GaussianMixture([0.0], [0.1], [1.0]), np.array([0]))
    assert prior.mixture().num_components == 1
    loss, found = gradients(prior, weights)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(prior.trainable_variables[0]))
    for field, gradient in found.items():
        assert np.all(np.isfinite(gradient)), field


def test_fit_initial_covers_the_weights_in_their_own_unit(weights):
    prior = make_prior(weights, num_components=6)
    flat = np.concatenate([w.ravel() for w in weights]).astype("float64")
    scale = np.sqrt(np.mean(flat**2))
    mixture = prior.mixture()
    assert float(prior.scale.value) == pytest.approx(scale)
    options = prior.options
    np.testing.assert_allclose(mixture.stddevs, options.initial_stddev * scale, rtol=1e-5)
    assert np.abs(mixture.means).max() == pytest.approx(np.quantile(np.abs(flat), 0.9999))
    targets = [options.zero.stddev * scale, options.others.stddev * scale]
    np.testing.assert_allclose(prior.target_stddevs.value, targets, rtol=1e-5)
    # A bias may begin at zero, which says nothing about its scale.
    scales = np.array([np.sqrt(np.mean(np.square(weights[0], dtype="float64"))), scale])
    np.testing.assert_allclose(prior.tensor_scales.value, scales, rtol=1e-5)
    widths = options.assignment_width * scales
    np.testing.assert_allclose(prior.widths.value, widths, rtol=1e-5)


@pytest.mark.parametrize(("zero_proportion", "expected"), [(None, 0.5), (0.97, 0.97)])
def test_fit_initial_begins_with_half_at_zero_or_what_is_given(
    zero_proportion, expected, weights
):
    prior = make_prior(weights, zero_proportion, num_components=6)
    others = np.full(5, (1 - expected) / 5)
    proportions = prior.mixture().mixing_proportions
    np.testing.assert_allclose(proportions, [expected, *others], rtol=1e-5)


def test_assign_and_snap_follow_the_mixture(weights):
    prior = make_prior(weights)
    prior.set_widths(assignment=0.5)
    tensors = [tf.constant(w) for w in weights]
    means = prior.tensors().means.numpy()
    indices = prior.assign(tensors)
    part = Part(tensors, prior.tensors(), prior.assignment_widths())
    (moved,) = snap_to_means([part], tf.constant(1.0))
    widths = np.asarray(prior.widths.value, "float64")
    assert widths[0] != widths[1]
    for index, snapped, w, s in zip(indices, moved, weights, widths, strict=True):
        expected = prior.mixture().assign(w, s)
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_array_equal(snapped, means[expected])


@pytest.mark.parametrize("zero_proportion", [None, 0.95, BetaHyperprior(5.0, 1.0)])
def test_config_round_trip(zero_proportion):
    options = PriorOptions(
        initial_stddev=2.0,
        zero=GammaHyperprior(100.0, 0.1),
        assignment_width=0.0,
        learning_rates=LearningRates(means=0.3),
    )
    prior = GaussianMixturePrior(
        5, zero_proportion=zero_proportion, options=options, num_tensors=3
    )
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(prior))
    assert copy.get_config() == prior.get_config()
    assert copy.options == options
    assert copy.zero_proportion == zero_proportion
    assert [v.shape for v in copy.weights] == [v.shape for v in prior.weights]


# What is turned down.


@pytest.mark.parametrize("num_components", [1, 257, 2.0, "4", None])
def test_number_of_components_out_of_range(num_components):
    with pytest.raises(ValueError, match="num_components must be an integer from 2"):
        GaussianMixturePrior(num_components)


@pytest.mark.parametrize("zero_proportion", [0.0, 1.0, -0.1, np.nan])
def test_zero_proportion_out_of_range(zero_proportion):
    with pytest.raises(ValueError, match=f"BetaHyperprior .* received {zero_proportion}"):
        GaussianMixturePrior(4, zero_proportion=zero_proportion)


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        (PriorOptions, {"initial_stddev": 0.0}),
        (PriorOptions, {"initial_stddev": np.nan}),
        (PriorOptions, {"assignment_width": -1.0}),
        (PriorOptions, {"assignment_width": np.inf}),
        (PriorOptions, {"width_gain": 0.0}),
        (PriorOptions, {"width_gain": np.nan}),
        (PriorOptions, {"least_zero_proportion": 1.0}),
        (PriorOptions, {"least_zero_proportion": -0.1}),
        (LearningRates, {"means": 0.0}),
        (LearningRates, {"log_precisions": np.inf}),
        (LearningRates, {"log_proportions": -1.0}),
    ],
)
def test_settings_out_of_range(settings, arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must"):
        settings(**arguments)
