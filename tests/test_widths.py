"""Assignment widths follow from the sensitivities, within their limits."""

import keras
import numpy as np
import pytest
from families import sequential

import tfmot_sws as sws
from tfmot_sws.prior.options import PriorOptions
from tfmot_sws.prior.trainable import GaussianMixturePrior

SCALES = np.array([0.5, 0.02, 3.0])


def make_prior(sensitivities=(0, 0, 0), **options):
    prior = GaussianMixturePrior(5, options=PriorOptions(**options), num_tensors=3)
    prior.fit_initial([np.full((4, 3), scale, np.float32) for scale in SCALES])
    prior.sensitivities.assign(np.float32(sensitivities))
    return prior


def widths(prior):
    return np.asarray(prior.widths.value, "float64")


@pytest.mark.parametrize("gain", [15.0, 4.0])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_below_the_limit_the_curvature_decides(gain, factor):
    sensitivities, price = np.array([1e-3, 1e-6, 2e-2]), 7e-7
    prior = make_prior(sensitivities, width_gain=gain)
    prior.set_widths(assignment=factor, price=price)
    by_curvature = np.sqrt(gain * price / sensitivities)
    expected = factor * np.minimum(1.3 * SCALES, by_curvature)
    np.testing.assert_allclose(widths(prior), expected, rtol=1e-5)
    # Both cases occur.
    np.testing.assert_array_equal(by_curvature < 1.3 * SCALES, [True, False, True])


def test_an_unknown_sensitivity_or_price_gives_the_limit():
    prior = make_prior([0.0, 1e3, 0.0])
    prior.set_widths(price=1e-6)
    expected = [1.3 * 0.5, np.sqrt(5 * 1e-9), 1.3 * 3.0]
    np.testing.assert_allclose(widths(prior), expected, rtol=1e-5)
    prior.set_widths(assignment=0.5)
    np.testing.assert_allclose(widths(prior), 0.65 * SCALES, rtol=1e-5)


def test_the_limit_is_that_of_the_options():
    prior = make_prior([1e-30] * 3, assignment_width=0.4)
    prior.set_widths(price=1e-6)
    np.testing.assert_allclose(widths(prior), 0.4 * SCALES, rtol=1e-5)


def test_a_narrowed_tensor_stays_narrow():
    prior = make_prior([1e-3, 0.0, 1e-9])
    prior.set_widths(assignment=0.5, price=1e-6)
    before = widths(prior)
    prior.narrowing.assign([1.0, 0.25, 0.5])
    prior.set_widths(assignment=0.5, price=1e-6)
    np.testing.assert_allclose(widths(prior), before * [1.0, 0.25, 0.5], rtol=1e-6)


def test_the_hyperpriors_widths_are_of_the_whole_scale():
    prior = make_prior()
    prior.set_widths(stddev=2.0, price=1e-6)
    scale = np.sqrt(np.mean(SCALES**2))
    np.testing.assert_allclose(prior.target_stddevs.value, [2 * 1.3 * scale] * 2, rtol=1e-5)


def test_the_price_is_the_whole_tau_over_n():
    """The width does not wait for tau to rise: the schedule of the assignment sees to it."""
    shared = sws.apply_soft_weight_sharing(
        sequential(), num_components=5, complexity_weight=0.32, train_size=64
    )
    for group in shared.groups:
        group.prior.sensitivities.assign([1.0, 1.0])
    shared.sharing.anneal(complexity=0.5, snap=0.0, stddev=1.0, assignment=0.25)
    assert float(shared.complexity_weight.value) == pytest.approx(0.16)
    for group in shared.groups:
        scales = np.asarray(group.prior.tensor_scales.value)
        expected = 0.25 * np.minimum(1.3 * scales, np.sqrt(5 * 0.32 / 64))
        np.testing.assert_allclose(group.prior.widths.value, expected, rtol=1e-5)


def test_a_sensitive_tensor_ends_nearer_to_its_weights(rng):
    """The first layer's inputs are large, and with them its gradients."""
    x = (30 * rng.standard_normal((128, 10))).astype("float32")
    y = x @ rng.standard_normal((10, 3)).astype("float32")
    keras.utils.set_random_seed(0)
    shared = sws.apply_soft_weight_sharing(sequential(), num_components=8)
    shared.compile(keras.optimizers.Adam(1e-3), "mse")
    shared.fit(x, y, epochs=4, verbose=0, callbacks=[sws.AnnealAndMerge()])
    for group in shared.groups:
        sensitivities = np.asarray(group.prior.sensitivities.value)
        assert np.all(sensitivities > 0)
        limit = 1.3 * np.asarray(group.prior.tensor_scales.value)
        assert np.all(widths(group.prior) < 0.1 * limit)
