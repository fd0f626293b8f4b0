"""The tabulated prior against SciPy in float64: value and every gradient, to 1e-4."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp
from scipy.stats import norm

from tfmot_sws.prior import density_table
from tfmot_sws.prior.density import DEAD, MixtureTensors
from tfmot_sws.prior.density_table import EXACT_BELOW, total_negative_log_prob

TOLERANCE = 1e-4


def random_mixture(generator, num_components, widths=(1e-3, 1.0), largest_mean=1.0):
    """K components, float32, widths evenly in the logarithm; the first has its mean at zero."""
    means = generator.uniform(-largest_mean, largest_mean, num_components)
    means[0] = 0.0
    stddevs = np.exp(generator.uniform(*np.log(widths), num_components))
    zero, rest = generator.uniform(0.5, 0.999), np.ones(num_components - 1)
    proportions = np.concatenate([[zero], (1 - zero) * generator.dirichlet(rest)])
    fields = means, -2 * np.log(stddevs), np.log(np.maximum(proportions, 1e-12))
    return MixtureTensors(*(field.astype("float32") for field in fields))


def random_weights(generator, mixture, size, largest=1.5):
    """Most from the mixture itself, the rest from everywhere around it."""
    proportions = np.exp(mixture.log_proportions.astype("float64"))
    slots = generator.choice(len(proportions), size, p=proportions / proportions.sum())
    stddevs = np.exp(-0.5 * mixture.log_precisions)
    weights = generator.normal(mixture.means[slots], stddevs[slots])
    anywhere = generator.uniform(-largest, largest, size)
    return np.where(generator.random(size) < 0.8, weights, anywhere).astype("float32")


def evaluate(weights, mixture):
    """Loss, gradients in the weights, gradients in the mixture's three fields."""
    weights = [tf.constant(w) for w in weights]
    mixture = MixtureTensors(*(tf.constant(field) for field in mixture))
    with tf.GradientTape() as tape:
        tape.watch([*weights, *mixture])
        loss = total_negative_log_prob(weights, mixture)
    gradients = [g.numpy() for g in tape.gradient(loss, [*weights, *mixture])]
    return float(loss), gradients[: len(weights)], gradients[len(weights) :]


def oracle(weights, mixture):
    """Per weight in float64: loss (n,), its slope (n,), gradient in each field (n, K)."""
    points = weights.astype("float64").reshape(-1, 1)
    means, log_precisions, log_proportions = (f.astype("float64") for f in mixture)
    joint = log_proportions + norm.logpdf(points, means, np.exp(-0.5 * log_precisions))
    log_prob = logsumexp(joint, axis=1)
    responsibilities = np.exp(joint - log_prob[:, None])
    distance = (points - means) * np.exp(0.5 * log_precisions)
    pull = responsibilities * distance * np.exp(0.5 * log_precisions)
    in_precisions = -0.5 * responsibilities * (1 - distance**2)
    return -log_prob, pull.sum(axis=1), [-pull, in_precisions, -responsibilities]


def assert_equals_oracle(weights, mixture):
    loss, (slope,), in_mixture = evaluate([weights], mixture)
    losses, slopes, contributions = oracle(weights, mixture)
    assert loss == pytest.approx(losses.sum(), rel=TOLERANCE)
    error = np.linalg.norm(slope.reshape(-1) - slopes)
    assert error <= TOLERANCE * np.linalg.norm(slopes)
    for actual, contribution in zip(in_mixture, contributions, strict=True):
        # Near the optimum the contributions of single weights cancel.
        error = np.linalg.norm(actual - contribution.sum(axis=0))
        assert error <= TOLERANCE * np.linalg.norm(np.abs(contribution).sum(axis=0))


def test_oracle_agrees_with_finite_differences(rng):
    mixture = random_mixture(rng, 4)
    weights = random_weights(rng, mixture, 50)
    _, slopes, contributions = oracle(weights, mixture)
    step = 1e-6
    gap = oracle(weights.astype("float64") + step, mixture)[0]
    gap -= oracle(weights.astype("float64") - step, mixture)[0]
    np.testing.assert_allclose(slopes, gap / (2 * step), rtol=1e-4, atol=1e-4)
    for field, contribution in enumerate(contributions):
        high, low = list(mixture), list(mixture)
        high[field] = mixture[field].astype("float64") + step * (np.arange(4) == 2)
        low[field] = mixture[field].astype("float64") - step * (np.arange(4) == 2)
        gap = oracle(weights, high)[0] - oracle(weights, low)[0]
        np.testing.assert_allclose(contribution[:, 2], gap / (2 * step), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_components", [2, 5, 17, 64])
def test_table_equals_scipy(num_components, seed):
    generator = np.random.default_rng([num_components, seed])
    mixture = random_mixture(generator, num_components)
    assert_equals_oracle(random_weights(generator, mixture, 8000), mixture)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("largest_mean", [3.0, 10.0])
@pytest.mark.parametrize("widths", [(0.03, 1.3), (0.03, 0.03), (1.3, 1.3)])
@pytest.mark.parametrize("num_components", [2, 16, 64, 256])
def test_table_equals_scipy_in_root_mean_squares(num_components, widths, largest_mean, seed):
    """Widths as recipes set them, and means as they are laid out over ranges of weights."""
    generator = np.random.default_rng([num_components, seed])
    mixture = random_mixture(generator, num_components, widths, largest_mean)
    weights = random_weights(generator, mixture, 8000, 1.5 * largest_mean)
    assert_equals_oracle(weights, mixture)


def test_a_transition_far_from_all_weights_spoils_nothing(rng):
    """The two widest components, of nearly one width, change over 10,000 away."""
    others = random_mixture(rng, 64, (0.03, 0.03), 10.0)
    widest = np.float32([[3.0, -3.0], -2 * np.log([0.0301, 0.0301 * 1.0006]), [-3.0, -3.0]])
    mixture = MixtureTensors(*(np.concatenate(p) for p in zip(others, widest, strict=True)))
    assert_equals_oracle(random_weights(rng, mixture, 8000, 15.0), mixture)


@pytest.mark.parametrize("seed", range(2))
def test_table_equals_scipy_on_a_million_weights(seed):
    generator = np.random.default_rng(seed)
    mixture = random_mixture(generator, 5)
    assert_equals_oracle(random_weights(generator, mixture, 1_000_000), mixture)


@pytest.mark.parametrize("num_components", [2, 17])
def test_outliers_are_right_and_spoil_no_others(num_components):
    generator = np.random.default_rng(num_components)
    mixture = random_mixture(generator, num_components)
    weights = random_weights(generator, mixture, 8000)
    weights[[10, 4000, 7999]] = [50.0, -50.0, 50.0]
    loss, (slope,), _ = evaluate([weights], mixture)
    losses, slopes, _ = oracle(weights, mixture)
    assert loss == pytest.approx(losses.sum(), rel=TOLERANCE)
    far = np.abs(weights) == 50
    np.testing.assert_allclose(slope[far], slopes[far], rtol=TOLERANCE)
    error = np.linalg.norm((slope - slopes)[~far])
    assert error <= TOLERANCE * np.linalg.norm(slopes[~far])


@pytest.mark.parametrize("weight", [0.0, 0.3, -50.0])
def test_one_weight(weight):
    mixture = random_mixture(np.random.default_rng(3), 5)
    assert_equals_oracle(np.float32([weight]), mixture)


def test_equals_the_published_formula(rng):
    mixture = random_mixture(rng, 17)
    weights = random_weights(rng, mixture, 8000)
    mean, sigma, pi = (
        mixture.means,
        np.exp(-mixture.log_precisions / 2),
        mixture.log_proportions,
    )
    mean, sigma, pi = (a.astype("float64")[:, None] for a in (mean, sigma, pi))
    log_terms = pi - 0.5 * np.log(2 * np.pi * sigma**2) - (weights - mean) ** 2 / (2 * sigma**2)
    expected = -logsumexp(log_terms, axis=0).sum()
    assert evaluate([weights], mixture)[0] == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("size", [100, 8000])
def test_dead_components_count_for_nothing(size, rng):
    alive = random_mixture(rng, 2)
    weights = random_weights(rng, alive, size)
    corpses = np.float32([[0.1, -7.0, 0.2], [12.0, 0.0, 5.0], [DEAD, DEAD, DEAD]])
    joined = MixtureTensors(*(np.concatenate(p) for p in zip(alive, corpses, strict=True)))
    loss, slopes, in_mixture = evaluate([weights], joined)
    expected_loss, expected_slopes, expected = evaluate([weights], alive)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    error = np.linalg.norm(slopes[0] - expected_slopes[0])
    assert error <= 1e-6 * np.linalg.norm(expected_slopes[0])
    for actual, reference in zip(in_mixture, expected, strict=True):
        np.testing.assert_allclose(actual[:2], reference, rtol=1e-4, atol=1e-2)
        np.testing.assert_array_equal(actual[2:], 0.0)


def test_slices_change_nothing(monkeypatch, rng):
    mixture = random_mixture(rng, 5)
    flat = random_weights(rng, mixture, 8000)
    weights = [flat[:50].reshape(5, 10), flat[50:7000].reshape(10, 5, -1), flat[7000:]]
    loss, slopes, in_mixture = evaluate(weights, mixture)
    monkeypatch.setattr(density_table, "SLICE", 3000)
    sliced_loss, sliced_slopes, sliced_in_mixture = evaluate(weights, mixture)
    assert sliced_loss == pytest.approx(loss, rel=1e-6)
    for slope, sliced, weight in zip(slopes, sliced_slopes, weights, strict=True):
        assert sliced.shape == weight.shape
        np.testing.assert_array_equal(sliced, slope)
    for actual, expected in zip(sliced_in_mixture, in_mixture, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("small", [0, 3000, 10_000])
def test_tensors_are_joined_in_their_order(small, monkeypatch, rng):
    """Where all, some or none of them are small enough to be read as one."""
    monkeypatch.setattr(density_table, "SMALL", small)
    mixture = random_mixture(rng, 5)
    flat = random_weights(rng, mixture, 8000)
    parts = flat[:1].reshape(()), flat[1:4001].reshape(40, 100), flat[4001:4005], flat[4005:]
    _, slopes, _ = evaluate(list(parts), mixture)
    _, (expected,), _ = evaluate([flat], mixture)
    np.testing.assert_array_equal(np.concatenate([s.reshape(-1) for s in slopes]), expected)


@pytest.mark.parametrize(("size", "tabulates"), [(EXACT_BELOW - 1, False), (EXACT_BELOW, True)])
def test_few_weights_are_evaluated_exactly(size, tabulates, monkeypatch, rng):
    calls, tabulate = [], density_table._tabulate
    monkeypatch.setattr(density_table, "_tabulate", lambda m: calls.append(m) or tabulate(m))
    mixture = random_mixture(rng, 5)
    assert_equals_oracle(random_weights(rng, mixture, size), mixture)
    assert bool(calls) is tabulates


@pytest.mark.parametrize("widths", [0.0, 1.0, -3.0, 7.0])
def test_equal_weights(widths, rng):
    """All in one bin of the histogram, and not in its middle."""
    mixture = random_mixture(rng, 5)
    weight = mixture.means[1] + widths * np.exp(-0.5 * mixture.log_precisions[1])
    assert_equals_oracle(np.full(5000, weight, "float32"), mixture)


@pytest.mark.parametrize("distance", [0.0, -0.0, 1e-30, 1e3, -1e5])
def test_extreme_distances(distance, rng):
    mixture = random_mixture(rng, 5)
    assert_equals_oracle(np.full(5000, distance, "float32"), mixture)


def test_beyond_all_cells_nothing_overflows(rng):
    mixture = random_mixture(rng, 5)
    weights = random_weights(rng, mixture, 8000)
    weights[:3] = [3e38, -np.inf, np.nan]
    loss, (slope,), in_mixture = evaluate([weights], mixture)
    assert np.isfinite(loss)
    assert slope[0] > 0 > slope[1]
    for values in (slope, *in_mixture):
        assert np.isfinite(values).all()
