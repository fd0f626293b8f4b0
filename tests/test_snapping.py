"""Snapping: its values, its gradients, its noise."""

import numpy as np
import pytest
import tensorflow as tf
from mixtures import as_tensors, as_widths, random_mixture

from tfmot_sws.prior import snapping
from tfmot_sws.prior.assignment import assign
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.snapping import Noise, snap_to_means

MEANS = np.float32([0.0, 0.1, -0.3, 1 / 3])


@pytest.fixture
def mixture():
    return as_tensors(GaussianMixture(MEANS, [0.1, 0.2, 0.1, 0.3], [0.4, 0.2, 0.2, 0.2]))


@pytest.fixture
def weights(rng):
    """Two tensors that all components of `mixture` have a part in."""
    return [rng.normal(0, 0.4, shape).astype("float32") for shape in ((6, 5), (40,))]


def snapped(snap, weights, mixture, width=0.2):
    tensors, widths = [tf.constant(w) for w in weights], as_widths(width, len(weights))
    return [t.numpy() for t in snap_to_means(tensors, mixture, widths, tf.constant(snap))]


def members(weights, mixture, width=0.2):
    indices = assign([tf.constant(w) for w in weights], mixture, as_widths(width, len(weights)))
    return [index.numpy() for index in indices]


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
            as_widths(width, 2),
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
        widths = as_widths(0.2, len(tensors))
        moved = snap_to_means(tensors, mixture, widths, tf.constant(snap), **arguments)
        total = sum(tf.reduce_sum(loss(m)) for m in moved)
    return moved, tape.gradient(total, [*tensors, mixture.means])


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_factor_on_the_gradient_of_the_means_alone(factor, weights, mixture):
    tensors = [tf.constant(w) for w in weights]

    @tf.function
    def gradients(**arguments):
        return gradients_through(tensors, mixture, 0.5, tf.square, **arguments)[1]

    plain, found = gradients(), gradients(means_factor=tf.constant(factor))
    assert np.abs(plain[-1]).max() > 0
    for one, other in zip(plain[:-1], found[:-1], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found[-1], factor * plain[-1], rtol=1e-6)


def test_gradient_of_an_embedding(mixture):
    table = tf.Variable(np.linspace(-0.5, 0.5, 12, dtype="float32").reshape(4, 3))

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            (moved,) = snap_to_means([table.value()], mixture, [], tf.constant(1.0))
            loss = tf.reduce_sum(tf.gather(moved, [1, 1, 3]))
        return tape.gradient(loss, table)

    expected = np.float32([0, 2, 0, 1])[:, None] * np.ones(3)
    np.testing.assert_array_equal(tf.convert_to_tensor(gradient()), expected)


def test_noise_moves_weights_across_boundaries_and_no_further():
    mixture = as_tensors(GaussianMixture([0.0, 1.0], [0.1, 0.1], [0.5, 0.5]))
    weights = np.linspace(0, 1, 100_001, dtype="float32")
    noise = Noise([tf.constant(0.05)], tf.constant(3.0))
    arguments = [tf.constant(weights)], mixture, as_widths(0.2), tf.constant(1.0)
    (moved,) = snap_to_means(*arguments, noise=noise)
    # Uniform noise of standard deviation 0.05 reaches sqrt(3) times as far.
    share = np.clip((weights - 0.5) / (np.sqrt(12) * 0.05) + 0.5, 0, 1)
    certain = (share == 0) | (share == 1)
    np.testing.assert_array_equal(moved.numpy()[certain], share[certain])
    means = moved.numpy()[:-1].reshape(100, -1).mean(axis=1)
    np.testing.assert_allclose(means, share[:-1].reshape(100, -1).mean(axis=1), atol=0.08)


def test_gradients_pass_through_noise(weights, mixture):
    noise = Noise([tf.constant(0.2)] * 2, tf.constant(1.0))
    tensors = [tf.constant(w) for w in weights]
    moved, gradients = gradients_through(tensors, mixture, 1.0, tf.identity, noise=noise)
    *to_weights, to_means = gradients
    for gradient in to_weights:
        np.testing.assert_array_equal(gradient, np.ones(gradient.shape))
    counts = [sum(np.sum(m.numpy() == mean) for m in moved) for mean in MEANS]
    np.testing.assert_array_equal(to_means, counts)


@pytest.mark.parametrize("group_size", [0, 35, 10_000])
def test_grouping_changes_nothing(group_size, weights, mixture, monkeypatch):
    """Each by itself, some together, all together."""
    noise = Noise([tf.constant(s) for s in (0.2, 0.05, 0.0, 0.4)], tf.constant(1.0))
    tensors = [tf.constant(w) for w in [*weights, weights[0][:2], weights[1][:3]]]
    expected = gradients_through(tensors, mixture, 0.5, tf.square, noise=noise)
    monkeypatch.setattr(snapping, "GROUP_SIZE", group_size)
    moved, found = gradients_through(tensors, mixture, 0.5, tf.square, noise=noise)
    for one, other in zip(moved, expected[0], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found, expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("group_size", [0, 10_000])
def test_each_tensor_has_a_width_and_a_noise_of_its_own(group_size, mixture, monkeypatch):
    monkeypatch.setattr(snapping, "GROUP_SIZE", group_size)
    weights = tf.linspace(-0.5, 0.5, 1001)
    widths, amplitudes = [0.01, 0.5, 0.01], [0.0, 0.0, 0.3]
    noise = Noise([tf.constant(a) for a in amplitudes], tf.constant(1.0))
    arguments = mixture, [tf.constant(s) for s in widths], tf.constant(1.0)
    narrow, wide, noisy = snap_to_means([weights] * 3, *arguments, noise=noise)
    for moved, width in ((narrow, 0.01), (wide, 0.5)):
        np.testing.assert_array_equal(moved, snapped(1.0, [weights.numpy()], mixture, width)[0])
    assert np.any(narrow.numpy() != wide.numpy())
    assert np.mean(narrow.numpy() != noisy.numpy()) > 0.3


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [([], [[]]), ([9], [[0]]), ([1, 2, 3, 1, 9, 1, 1], [[0, 1], [2, 3], [4], [5, 6]])],
)
def test_groups_are_of_neighbours_and_not_too_large(sizes, groups, monkeypatch):
    monkeypatch.setattr(snapping, "GROUP_SIZE", 4)
    assert [list(group) for group in snapping._groups(sizes)] == groups
