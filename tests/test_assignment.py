"""Assignment in tensors against the reference; snapping's values and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tfmot_sws.assignment import assign, snap_to_means
from tfmot_sws.density_table import DEAD, MixtureTensors
from tfmot_sws.mixture import GaussianMixture

MEANS = np.float32([0.0, 0.1, -0.3, 1 / 3])


def random_mixture(generator, num_components=7):
    means = np.concatenate([[0.0], generator.uniform(-1, 1, num_components - 1)])
    stddevs = np.exp(generator.uniform(np.log(0.01), 0.0, num_components))
    return GaussianMixture(means, stddevs, generator.dirichlet(np.ones(num_components)))


def as_tensors(mixture):
    fields = mixture.means, np.log(mixture.precisions), np.log(mixture.mixing_proportions)
    return MixtureTensors(*(tf.constant(field, tf.float32) for field in fields))


def clear_cases(mixture, weights, width):
    """The weights whose best component leads by more than float32 rounding."""
    if width:
        mixture = GaussianMixture(
            mixture.means, np.full(mixture.num_components, width), mixture.mixing_proportions
        )
    scores = np.sort(mixture.component_log_prob(weights), axis=-1)
    return weights[scores[:, -1] - scores[:, -2] > 1e-3]


@pytest.mark.parametrize("width", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_assign_equals_the_reference(seed, width):
    generator = np.random.default_rng(seed)
    mixture = random_mixture(generator)
    weights = generator.uniform(-1.5, 1.5, 2000).astype("float32")
    weights = clear_cases(mixture, weights, width)[:1900].reshape(5, -1)
    index = assign(tf.constant(weights), as_tensors(mixture), tf.constant(width))
    assert index.dtype == tf.int32
    np.testing.assert_array_equal(index, mixture.assign(weights, width or None))


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_dead_components_are_never_chosen(width):
    fields = np.float32([[0, 0.5, 0.1], [9, 9, 9], [-0.1, DEAD, -3]])
    mixture = MixtureTensors(*(tf.constant(field) for field in fields))
    index = assign(tf.constant([0.5, -40.0, 0.5001]), mixture, tf.constant(width))
    assert 1 not in index.numpy()


def snapped(snap, weights, index, means=MEANS):
    arguments = tf.constant(weights), tf.constant(means), tf.constant(index), tf.constant(snap)
    return snap_to_means(*arguments).numpy()


@pytest.fixture
def members(rng):
    """Weights, and the component of each."""
    return rng.normal(size=(6, 5)).astype("float32"), rng.integers(0, 3, (6, 5), dtype="int32")


def test_no_snap_leaves_the_weights(members):
    np.testing.assert_array_equal(snapped(0.0, *members), members[0])


def test_half_a_snap_is_half_way(members):
    weights, index = members
    np.testing.assert_allclose(
        snapped(0.5, *members), (weights + MEANS[index]) / 2, rtol=1e-5, atol=1e-7
    )


def test_full_snap_is_the_means_bit_for_bit(rng):
    means = rng.normal(size=64).astype("float32")
    means[0] = 0.0
    weights = (100 * rng.normal(size=10_000)).astype("float32")
    index = rng.integers(0, 64, 10_000, dtype="int32")
    np.testing.assert_array_equal(snapped(1.0, weights, index, means), means[index])


@pytest.mark.parametrize("snap", [0.0, 0.25, 1.0])
def test_gradients(snap, members, rng):
    weights, means = tf.Variable(members[0]), tf.Variable(MEANS)
    upstream = rng.normal(size=weights.shape).astype("float32")
    with tf.GradientTape() as tape:
        moved = snap_to_means(weights, means, tf.constant(members[1]), tf.constant(snap))
        loss = tf.reduce_sum(upstream * moved)
    to_weights, to_means = tape.gradient(loss, [weights, means])
    np.testing.assert_allclose(to_weights, upstream, rtol=1e-6)
    sums = np.bincount(members[1].ravel(), upstream.ravel(), minlength=4)
    np.testing.assert_allclose(
        tf.convert_to_tensor(to_means), snap * sums, rtol=1e-4, atol=1e-6
    )
