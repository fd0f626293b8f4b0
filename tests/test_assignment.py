"""Assignment in tensors against the reference; snapping's values and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from tfmot_sws.assignment import Noise, assign, snap_to_means
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


def as_width(width):
    """The tensor that `assign` takes; 0 stands for each component's own width."""
    return tf.constant(width) if width else None


@pytest.mark.parametrize("width", [0.0, 0.02, 0.3, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_assign_equals_the_reference(seed, width):
    generator = np.random.default_rng(seed)
    mixture = random_mixture(generator)
    weights = generator.uniform(-1.5, 1.5, 2000).astype("float32")
    weights = clear_cases(mixture, weights, width)[:1900].reshape(5, -1)
    index = assign(tf.constant(weights), as_tensors(mixture), as_width(width))
    assert index.dtype == tf.int32
    np.testing.assert_array_equal(index, mixture.assign(weights, width or None))


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_dead_components_are_never_chosen(width):
    fields = np.float32([[0, 0.5, 0.1], [9, 9, 9], [-0.1, DEAD, -3]])
    mixture = MixtureTensors(*(tf.constant(field) for field in fields))
    index = assign(tf.constant([0.5, -40.0, 0.5001]), mixture, as_width(width))
    assert 1 not in index.numpy()


def test_equal_means_leave_the_likelier():
    fields = np.float32([[0, 0.5, 0.5], [5, 5, 5], np.log([0.6, 0.1, 0.3])])
    mixture = MixtureTensors(*(tf.constant(field) for field in fields))
    index = assign(tf.constant([0.6, -0.2]), mixture, tf.constant(0.1))
    np.testing.assert_array_equal(index, [2, 0])


@pytest.mark.parametrize("width", [0.0, 0.05])
def test_huge_weights_go_to_the_outermost(width):
    mixture = GaussianMixture([0.0, 0.4, -0.4], [0.1, 0.1, 0.1], [0.8, 0.1, 0.1])
    index = assign(tf.constant([3e4, -3e4]), as_tensors(mixture), as_width(width))
    np.testing.assert_array_equal(index, [1, 2])


@pytest.fixture
def mixture():
    return as_tensors(GaussianMixture(MEANS, [0.1, 0.2, 0.1, 0.3], [0.4, 0.2, 0.2, 0.2]))


@pytest.fixture
def weights(rng):
    """Two tensors that all components of `mixture` have a part in."""
    return [rng.normal(0, 0.4, shape).astype("float32") for shape in ((6, 5), (40,))]


def snapped(snap, weights, mixture, width=0.2):
    arguments = [tf.constant(w) for w in weights], mixture, as_width(width), tf.constant(snap)
    return [tensor.numpy() for tensor in snap_to_means(*arguments)]


def members(weights, mixture, width=0.2):
    return [assign(tf.constant(w), mixture, as_width(width)).numpy() for w in weights]


def test_no_snap_leaves_the_weights(weights, mixture):
    for moved, weight in zip(snapped(0.0, weights, mixture), weights, strict=True):
        np.testing.assert_array_equal(moved, weight)


def test_half_a_snap_is_half_way(weights, mixture):
    indices = members(weights, mixture)
    for moved, w, index in zip(snapped(0.5, weights, mixture), weights, indices, strict=True):
        np.testing.assert_allclose(moved, (w + MEANS[index]) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("width", [0.0, 0.1])
@pytest.mark.parametrize("num_components", [2, 64, 256])
def test_full_snap_is_the_assigned_means_bit_for_bit(rng, num_components, width):
    mixture = as_tensors(random_mixture(rng, num_components))
    weights = [rng.normal(size=10_000).astype("float32")]
    (index,) = members(weights, mixture, width)
    (moved,) = snapped(1.0, weights, mixture, width)
    np.testing.assert_array_equal(moved, mixture.means.numpy()[index])


@pytest.mark.parametrize("width", [0.0, 0.2])
@pytest.mark.parametrize("snap", [0.0, 0.25, 1.0])
def test_gradients(snap, width, weights, mixture, rng):
    variables, means = [tf.Variable(w) for w in weights], tf.Variable(MEANS)
    upstream = [rng.normal(size=w.shape).astype("float32") for w in weights]
    with tf.GradientTape() as tape:
        moved = snap_to_means(
            [v.value() for v in variables],
            mixture._replace(means=means.value()),
            as_width(width),
            tf.constant(snap),
        )
        loss = sum(tf.reduce_sum(u * m) for u, m in zip(upstream, moved, strict=True))
    *to_weights, to_means = tape.gradient(loss, [*variables, means])
    for gradient, expected in zip(to_weights, upstream, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    index = np.concatenate([i.ravel() for i in members(weights, mixture, width)])
    flat = np.concatenate([u.ravel() for u in upstream])
    sums = np.bincount(index, flat, minlength=4)
    np.testing.assert_allclose(to_means, snap * sums, rtol=1e-4, atol=1e-5)


def gradients_through(tensors, mixture, snap, loss, **arguments):
    """Gradients of `loss`, summed over the snapped tensors, in these and in the means."""
    with tf.GradientTape() as tape:
        tape.watch([*tensors, mixture.means])
        moved = snap_to_means(
            tensors, mixture, tf.constant(0.2), tf.constant(snap), **arguments
        )
        total = sum(tf.reduce_sum(loss(m)) for m in moved)
    return moved, tape.gradient(total, [*tensors, mixture.means])


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_factor_on_the_gradient_of_the_means_alone(factor, weights, mixture):
    tensors = [tf.constant(w) for w in weights]

    @tf.function
    def gradients(**arguments):
        return gradients_through(tensors, mixture, 0.5, tf.square, **arguments)[1]

    plain, found = gradients(), gradients(for_means=tf.constant(factor))
    assert np.abs(plain[-1]).max() > 0
    for one, other in zip(plain[:-1], found[:-1], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found[-1], factor * plain[-1], rtol=1e-6)


def test_gradient_of_an_embedding(mixture):
    table = tf.Variable(np.linspace(-0.5, 0.5, 12, dtype="float32").reshape(4, 3))

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            (moved,) = snap_to_means([table.value()], mixture, None, tf.constant(1.0))
            loss = tf.reduce_sum(tf.gather(moved, [1, 1, 3]))
        return tape.gradient(loss, table)

    expected = np.float32([0, 2, 0, 1])[:, None] * np.ones(3)
    np.testing.assert_array_equal(tf.convert_to_tensor(gradient()), expected)


def test_noise_moves_weights_across_boundaries_and_no_further():
    mixture = as_tensors(GaussianMixture([0.0, 1.0], [0.1, 0.1], [0.5, 0.5]))
    weights = np.linspace(0, 1, 100_001, dtype="float32")
    noise = Noise(tf.constant(0.05), tf.constant(3.0))
    arguments = [tf.constant(weights)], mixture, tf.constant(0.2), tf.constant(1.0)
    (moved,) = snap_to_means(*arguments, noise=noise)
    # Uniform noise of standard deviation 0.05 reaches sqrt(3) times as far.
    share = np.clip((weights - 0.5) / (np.sqrt(12) * 0.05) + 0.5, 0, 1)
    certain = (share == 0) | (share == 1)
    np.testing.assert_array_equal(moved.numpy()[certain], share[certain])
    means = moved.numpy()[:-1].reshape(100, -1).mean(axis=1)
    np.testing.assert_allclose(means, share[:-1].reshape(100, -1).mean(axis=1), atol=0.08)


def test_gradients_pass_through_noise(weights, mixture):
    noise = Noise(tf.constant(0.2), tf.constant(1.0))
    tensors = [tf.constant(w) for w in weights]
    moved, gradients = gradients_through(tensors, mixture, 1.0, tf.identity, noise=noise)
    *to_weights, to_means = gradients
    for gradient in to_weights:
        np.testing.assert_array_equal(gradient, np.ones(gradient.shape))
    counts = [sum(np.sum(m.numpy() == mean) for m in moved) for mean in MEANS]
    np.testing.assert_array_equal(to_means, counts)
