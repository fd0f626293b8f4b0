"""The density and its derivatives against SciPy in float64, near and far."""

import numpy as np
import pytest
import tensorflow as tf
from mixtures import as_tensors, random_mixture
from scipy.special import logsumexp, softmax
from scipy.stats import norm

from tfmot_sws.prior.density import (
    DEAD,
    MixtureTensors,
    derivatives,
    mixture_gradients,
    negative_log_prob,
)

NEAR = np.linspace(-1.5, 1.5, 3001)
FAR = np.concatenate([np.geomspace(2, 1e4, 200), -np.geomspace(2, 1e4, 200)])


def oracle(points, mixture):
    """f, f', f'' and the shares in float64."""
    points = points[:, None]
    joint = np.log(mixture.mixing_proportions) + norm.logpdf(
        points, mixture.means, mixture.stddevs
    )
    shares = softmax(joint, axis=1)
    pull = mixture.precisions * (points - mixture.means)
    slope = np.sum(shares * pull, axis=1, keepdims=True)
    bend = np.sum(shares * (mixture.precisions - (pull - slope) ** 2), axis=1)
    return -logsumexp(joint, axis=1), slope[:, 0], bend, shares.T


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("num_components", [2, 7, 64])
@pytest.mark.parametrize("points", [NEAR, FAR], ids=["near", "far"])
def test_derivatives_equal_scipy(points, num_components, jit_compile):
    mixture = random_mixture(np.random.default_rng(num_components), num_components)
    compiled = tf.function(derivatives, jit_compile=jit_compile)
    points = points.astype("float32")
    found = compiled(tf.constant(points), as_tensors(mixture))
    expected = oracle(points.astype("float64"), mixture)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert np.linalg.norm(one - other) <= 1e-3 * np.linalg.norm(other)
    alone = negative_log_prob(tf.constant(points), as_tensors(mixture))
    np.testing.assert_allclose(alone, expected[0], rtol=1e-5, atol=1e-5)


def test_the_dead_have_no_share(rng):
    mixture = as_tensors(random_mixture(rng, 3))
    corpse = MixtureTensors(*(tf.constant([field]) for field in (0.1, 12.0, DEAD)))
    joined = MixtureTensors(*(tf.concat(p, 0) for p in zip(mixture, corpse, strict=True)))
    np.testing.assert_array_equal(joined.alive, [True, True, True, False])
    *found, shares = derivatives(NEAR, joined)
    *expected, shares_without = derivatives(NEAR, mixture)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shares[:3], shares_without, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(shares[3], 0.0)


@pytest.mark.parametrize("num_components", [2, 7, 64])
def test_mixture_gradients_equal_automatic_ones(num_components, rng):
    mixture = as_tensors(random_mixture(rng, num_components))
    points = tf.constant(NEAR.astype("float32"))
    by_values, by_slopes = rng.normal(size=(2, NEAR.size)).astype("float32")
    by_slopes = 1e-3 * by_slopes
    with tf.GradientTape() as tape:
        tape.watch(list(mixture))
        at = derivatives(points, mixture)
        total = tf.reduce_sum(by_values * at.value + by_slopes * at.slope)
    expected = tape.gradient(total, list(mixture))
    found = mixture_gradients(points, mixture, at, by_values, by_slopes)
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(other)
