"""Hyperpriors against SciPy's densities; ranges; where the mode is."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfmot_sws.prior.hyperpriors import BetaHyperprior, GammaHyperprior, gamma_negative_log_prob


@pytest.mark.parametrize("alpha", [1.0, 1.5, 250.0, 5000.0, 1e7])
@pytest.mark.parametrize("stddev", [0.004, 0.02, 1.0])
def test_gamma_is_scipys(alpha, stddev):
    stddev = np.float32(stddev)
    log_precisions = (-2 * np.log(stddev) + np.linspace(-2, 2, 9)).astype("float32")
    rate = alpha * np.float64(stddev) ** 2
    precisions = np.exp(log_precisions.astype("float64"))
    expected = -stats.gamma.logpdf(precisions, alpha, scale=1 / rate)
    actual = gamma_negative_log_prob(tf.constant(log_precisions), alpha, tf.constant(stddev))
    # Rounding of u in float32 counts alpha u times, less the nearer the mean.
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-6 * alpha)


@pytest.mark.parametrize(("alpha", "stddev"), [(250.0, 0.02), (5000.0, 0.4), (2.0, 1.0)])
def test_gamma_gradient_vanishes_at_the_mode(alpha, stddev):
    mode = (alpha - 1) / (alpha * stddev**2)
    log_precisions = tf.Variable(np.log([0.5 * mode, mode, 2 * mode]), dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(gamma_negative_log_prob(log_precisions, alpha, stddev))
    below, at, above = tape.gradient(loss, log_precisions).numpy()
    assert below < 0 < above
    assert abs(at) < 1e-5 * alpha


@pytest.mark.parametrize(("strength", "num_weights"), [(5.0, 100), (0.01, 100_000)])
def test_strength_counts_in_weights(strength, num_weights):
    # W weights of a component at its mean w = mu move the precision's posterior from
    # Gamma(alpha, beta) to Gamma(alpha + W / 2, beta): twice alpha weighs like W.
    alpha = GammaHyperprior(strength, 0.02).alpha(num_weights)
    assert 2 * (alpha - 1) == pytest.approx(strength * num_weights)


@pytest.mark.parametrize(("alpha", "beta"), [(990.0, 10.0), (1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("zero_proportion", [0.02, 0.5, 0.99])
def test_beta_is_scipys(alpha, beta, zero_proportion):
    logs = [tf.math.log(zero_proportion), tf.math.log1p(-zero_proportion)]
    actual = float(BetaHyperprior(alpha, beta).negative_log_prob(*logs))
    expected = -stats.beta.logpdf(zero_proportion, alpha, beta)
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-6 * (alpha + beta))


def test_beta_mean():
    assert BetaHyperprior(3.0, 1.0).mean == pytest.approx(stats.beta.mean(3.0, 1.0))


@pytest.mark.parametrize("strength", [0.0, -2.0, np.inf, np.nan])
def test_gamma_strength_out_of_range(strength):
    with pytest.raises(ValueError, match=f"above 0; received {strength}"):
        GammaHyperprior(strength, 0.02)


@pytest.mark.parametrize("stddev", [0.0, -1.0, np.inf, np.nan])
def test_gamma_stddev_out_of_range(stddev):
    with pytest.raises(ValueError, match=f"stddev must .* received {stddev}"):
        GammaHyperprior(250.0, stddev)


@pytest.mark.parametrize("arguments", [(0.0, 1.0), (1.0, -1.0), (np.inf, 1.0), (1.0, np.nan)])
def test_beta_out_of_range(arguments):
    with pytest.raises(ValueError, match="alpha and beta must be finite and above 0"):
        BetaHyperprior(*arguments)
