"""GaussianMixture against SciPy, and what merging must conserve."""

import dataclasses

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import entropy, norm

from tfmot_sws.models.entropy import entropy_bits
from tfmot_sws.prior import mixture as mixture_module
from tfmot_sws.prior.mixture import GaussianMixture


def random_mixture(seed, num_components=6):
    generator = np.random.default_rng(seed)
    means = np.concatenate([[0.0], generator.uniform(-1, 1, num_components - 1)])
    stddevs = np.exp(generator.uniform(np.log(1e-3), 0, num_components))
    return GaussianMixture(means, stddevs, generator.dirichlet(np.ones(num_components)))


def brute_force_log_joint(mixture, value, width=None):
    triples = zip(mixture.means, mixture.stddevs, mixture.mixing_proportions, strict=True)
    return [np.log(pi) + norm.logpdf(value, mu, width or sd) for mu, sd, pi in triples]


# Densities.


@pytest.mark.parametrize("seed", range(4))
def test_log_prob_is_scipys(seed, rng):
    mixture, values = random_mixture(seed), rng.uniform(-2, 2, (7, 11))
    densities = norm.pdf(values[..., None], mixture.means, mixture.stddevs)
    expected = np.log(densities @ mixture.mixing_proportions)
    np.testing.assert_allclose(mixture.log_prob(values), expected, rtol=1e-12)


def test_log_prob_of_an_outlier_does_not_underflow():
    mixture = GaussianMixture([0, 0.5], [1e-3, 1e-3], [0.9, 0.1])
    expected = np.log(0.1) + norm.logpdf(50.0, 0.5, 1e-3)
    np.testing.assert_allclose(mixture.log_prob(50.0), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_responsibilities_are_shares_of_the_density(seed, rng):
    mixture, values = random_mixture(seed), rng.uniform(-2, 2, (5, 6))
    responsibilities = mixture.responsibilities(values)
    assert responsibilities.shape == (5, 6, 6)
    np.testing.assert_allclose(responsibilities.sum(axis=-1), 1.0, rtol=1e-12)
    joint = norm.pdf(values[..., None], mixture.means, mixture.stddevs)
    joint = joint * mixture.mixing_proportions
    expected = joint / joint.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(responsibilities, expected, rtol=1e-9, atol=1e-200)


def test_component_without_proportion_takes_nothing():
    mixture = GaussianMixture([0, 0.5], [0.1, 0.1], [1.0, 0.0])
    np.testing.assert_array_equal(mixture.responsibilities([0.5, 50.0]), [[1, 0], [1, 0]])
    np.testing.assert_array_equal(mixture.assign([0.5, 50.0]), [0, 0])


def test_precisions_and_size():
    mixture = GaussianMixture([0, 0.5], [0.1, 0.02], [0.9, 0.1])
    np.testing.assert_allclose(mixture.precisions, [100, 2500])
    assert mixture.num_components == 2


# Assignment.


@pytest.mark.parametrize("width", [None, 0.01, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_assign_is_brute_force(seed, width, rng):
    mixture, values = random_mixture(seed), rng.uniform(-2, 2, 200)
    expected = [np.argmax(brute_force_log_joint(mixture, v, width)) for v in values]
    np.testing.assert_array_equal(mixture.assign(values, width), expected)


def test_common_width_frees_the_dead_zone_of_a_narrow_zero_component():
    mixture = GaussianMixture([0, 0.1], [0.004, 0.05], [0.99, 0.01])
    assert mixture.assign(0.03) == 1
    assert mixture.assign(0.03, width=0.05) == 0


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 0, 5)])
def test_assign_keeps_the_shape(shape):
    index = random_mixture(0).assign(np.zeros(shape))
    assert index.shape == shape
    assert np.issubdtype(index.dtype, np.integer)


def test_assign_in_slices_changes_nothing(monkeypatch, rng):
    mixture, values = random_mixture(1), rng.uniform(-1, 1, (9, 11))
    expected = mixture.assign(values)
    monkeypatch.setattr(mixture_module, "_SLICE", 10)
    np.testing.assert_array_equal(mixture.assign(values), expected)


# Divergence, merging, selection.


def integrated_symmetric_kl(first, second, width=12.0, points=200_001):
    grid = np.linspace(-width, width, points)
    log_p, log_q = norm.logpdf(grid, *first), norm.logpdf(grid, *second)
    return trapezoid((np.exp(log_p) - np.exp(log_q)) * (log_p - log_q), grid)


def test_symmetric_kl_is_the_integral():
    mixture = GaussianMixture([0, 0.5, -1], [0.2, 0.7, 0.3], [0.5, 0.25, 0.25])
    pairs = list(zip(mixture.means, mixture.stddevs, strict=True))
    expected = [[integrated_symmetric_kl(p, q) for q in pairs] for p in pairs]
    np.testing.assert_allclose(mixture.symmetric_kl(), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("groups", [[[0], [1, 2, 4], [3, 5]], [[0], [1], [2, 3, 4, 5]]])
@pytest.mark.parametrize("seed", range(3))
def test_merging_conserves_the_moments_of_each_group(groups, seed):
    mixture = random_mixture(seed)
    merged = mixture.merge([np.array(group) for group in groups])
    moments = [np.ones(6), mixture.means, mixture.stddevs**2 + mixture.means**2]
    merged_moments = [np.ones(3), merged.means, merged.stddevs**2 + merged.means**2]
    for before, after in zip(moments, merged_moments, strict=True):
        weighted = mixture.mixing_proportions * before
        expected = [weighted[group].sum() for group in groups]
        np.testing.assert_allclose(merged.mixing_proportions * after, expected, rtol=1e-9)


def test_merging_into_zero_keeps_its_mean_and_the_second_moment():
    mixture = GaussianMixture([0, 0.3, 0.9], [0.1, 0.2, 0.1], [0.6, 0.2, 0.2])
    merged = mixture.merge([np.array([0, 1]), np.array([2])])
    np.testing.assert_array_equal(merged.means, [0, 0.9])
    np.testing.assert_allclose(merged.mixing_proportions, [0.8, 0.2])
    variance = (0.6 * 0.1**2 + 0.2 * (0.2**2 + 0.3**2)) / 0.8
    np.testing.assert_allclose(merged.stddevs**2, [variance, 0.1**2])


def test_merging_components_without_proportion():
    mixture = GaussianMixture([0, 0.4, 0.6], [0.1, 0.1, 0.1], [1.0, 0.0, 0.0])
    merged = mixture.merge([np.array([0]), np.array([1, 2])])
    np.testing.assert_allclose(merged.means, [0, 0.5])
    np.testing.assert_array_equal(merged.mixing_proportions, [1, 0])


def test_merge_groups_joins_near_components_only():
    means, stddevs = [0, 0.5, 0.001, -0.5, 0.501], [0.05, 0.05, 0.05, 0.05, 0.05]
    mixture = GaussianMixture(means, stddevs, [0.6, 0.1, 0.1, 0.1, 0.1])
    groups = [group.tolist() for group in mixture.merge_groups(0.01)]
    assert groups == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize(("threshold", "number"), [(0.0, 6), (np.inf, 1)])
def test_merge_groups_at_the_ends_of_the_threshold(threshold, number):
    groups = random_mixture(2).merge_groups(threshold)
    assert len(groups) == number
    assert groups[0][0] == 0
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(6))


def test_select_scales_the_others_and_keeps_zero():
    mixture = GaussianMixture([0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4], [0.6, 0.2, 0.1, 0.1])
    kept = mixture.select(np.array([False, True, False, True]))
    np.testing.assert_array_equal(kept.means, [0, 1, 3])
    np.testing.assert_array_equal(kept.stddevs, [0.1, 0.2, 0.4])
    np.testing.assert_allclose(kept.mixing_proportions, [0.6, 0.4 * 2 / 3, 0.4 / 3])


def test_select_of_zero_alone_gives_it_everything():
    kept = random_mixture(0).select(np.zeros(6, bool))
    np.testing.assert_array_equal(kept.mixing_proportions, [1.0])


# The value itself.


@pytest.mark.parametrize(
    ("means", "stddevs", "proportions", "message"),
    [
        ([0, 1], [1, 1, 1], [0.5, 0.5], "one shape"),
        ([], [], [], "K >= 1"),
        ([[0.0]], [[1.0]], [[1.0]], "one shape"),
        ([0.1, 1], [1, 1], [0.5, 0.5], "exactly 0"),
        ([0, np.nan], [1, 1], [0.5, 0.5], "means must be finite"),
        ([0, 1], [1, 0], [0.5, 0.5], "stddevs must be positive"),
        ([0, 1], [1, np.inf], [0.5, 0.5], "stddevs must be positive"),
        ([0, 1], [1, 1], [0.5, 0.6], "sum to 1"),
        ([0, 1], [1, 1], [1.5, -0.5], "at least 0"),
        ([0, 1], [1, 1], [np.nan, 0.5], "sum to 1"),
    ],
)
def test_impossible_mixtures_are_turned_down(means, stddevs, proportions, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(means, stddevs, proportions)


def test_mixture_is_immutable_and_holds_a_copy():
    means = np.array([0.0, 1.0])
    mixture = GaussianMixture(means, [1, 1], [0.5, 0.5])
    means[1] = 7.0
    assert mixture.means[1] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        mixture.means[1] = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        mixture.means = means


@pytest.mark.parametrize("counts", [[1], [3, 3], [5, 0, 2], [1, 2, 3, 4, 5]])
def test_entropy_is_scipys(counts):
    assert entropy_bits(counts) == pytest.approx(entropy(counts, base=2))


@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_entropy_of_nothing_is_zero(counts):
    assert entropy_bits(counts) == 0.0
