"""Snapping: its values and its gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES
from mixtures import as_tensors, as_widths, random_mixture

import tfmot_sws as sws
from tfmot_sws.prior import assignment
from tfmot_sws.prior.assignment import Part, assign
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.snapping import snap_to_means
from tfmot_sws.training.shared_step import _means_factor

MEANS = np.float32([0.0, 0.1, -0.3, 1 / 3])


@pytest.fixture
def mixture():
    return as_tensors(GaussianMixture(MEANS, [0.1, 0.2, 0.1, 0.3], [0.4, 0.2, 0.2, 0.2]))


@pytest.fixture
def weights(rng):
    """Two tensors that all components of `mixture` have a part in."""
    return [rng.normal(0, 0.4, shape).astype("float32") for shape in ((6, 5), (40,))]


def snapped(snap, weights, mixture, width=0.2):
    part = Part([tf.constant(w) for w in weights], mixture, as_widths(width, len(weights)))
    (moved,) = snap_to_means([part], tf.constant(snap))
    return [tensor.numpy() for tensor in moved]


def members(weights, mixture, width=0.2):
    indices = assign(
        Part([tf.constant(w) for w in weights], mixture, as_widths(width, len(weights)))
    )
    return [index.numpy() for index in indices]


def test_no_snap_leaves_the_weights(weights, mixture):
    for moved, weight in zip(snapped(0.0, weights, mixture), weights, strict=True):
        np.testing.assert_array_equal(moved, weight)


def test_half_a_snap_is_half_way(weights, mixture):
    indices = members(weights, mixture)
    for moved, w, index in zip(snapped(0.5, weights, mixture), weights, indices, strict=True):
        np.testing.assert_allclose(moved, (w + MEANS[index]) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
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
        tensors, of_means = (
            [v.value() for v in variables],
            mixture._replace(means=means.value()),
        )
        (moved,) = snap_to_means(
            [Part(tensors, of_means, as_widths(width, 2))], tf.constant(snap)
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
        part = Part(tensors, mixture, as_widths(0.2, len(tensors)))
        (moved,) = snap_to_means([part], tf.constant(snap), **arguments)
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
            ((moved,),) = snap_to_means([Part([table.value()], mixture, [])], tf.constant(1.0))
            loss = tf.reduce_sum(tf.gather(moved, [1, 1, 3]))
        return tape.gradient(loss, table)

    expected = np.float32([0, 2, 0, 1])[:, None] * np.ones(3)
    np.testing.assert_array_equal(tf.convert_to_tensor(gradient()), expected)


@pytest.mark.parametrize("below", [0, 35, 10_000])
def test_sharing_a_matrix_changes_nothing(below, weights, mixture, monkeypatch):
    """Each by itself, some together, all together."""
    tensors = [tf.constant(w) for w in [*weights, weights[0][:2], weights[1][:3]]]
    expected = gradients_through(tensors, mixture, 0.5, tf.square)
    monkeypatch.setattr(assignment, "SMALL", below)
    moved, found = gradients_through(tensors, mixture, 0.5, tf.square)
    for one, other in zip(moved, expected[0], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found, expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("below", [0, 35, 10_000])
def test_mixtures_together_are_as_each_by_itself(below, weights, mixture, rng, monkeypatch):
    """In values and in the gradients of all means and weights."""
    monkeypatch.setattr(assignment, "SMALL", below)
    mixtures = mixture, as_tensors(random_mixture(rng, 7))
    lists = [tf.constant(w) for w in weights], [tf.constant(w) for w in weights[::-1]]
    sources = [*lists[0], *lists[1], *(m.means for m in mixtures)]

    def results(*selections):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            parts = [Part(lists[i], mixtures[i], as_widths(0.2, 2)) for i in range(2)]
            moved = [
                tensor
                for selected in selections
                for of_part in snap_to_means([parts[i] for i in selected], tf.constant(0.5))
                for tensor in of_part
            ]
            total = sum(tf.reduce_sum(m**2) for m in moved)
        return moved, tape.gradient(total, sources)

    for one, other in zip(
        *map(tf.nest.flatten, (results([0, 1]), results([0], [1]))), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("below", [0, 10_000])
def test_each_tensor_has_a_width_of_its_own(below, mixture, monkeypatch):
    monkeypatch.setattr(assignment, "SMALL", below)
    weights, widths = tf.linspace(-0.5, 0.5, 1001), (0.01, 0.5)
    part = Part([weights] * 2, mixture, [tf.constant(s) for s in widths])
    ((narrow, wide),) = snap_to_means([part], tf.constant(1.0))
    for moved, width in zip((narrow, wide), widths, strict=True):
        np.testing.assert_array_equal(moved, snapped(1.0, [weights.numpy()], mixture, width)[0])
    assert np.any(narrow.numpy() != wide.numpy())


def test_means_take_their_whole_gradient_over_a_period():
    """Once, and then as many times as large, whatever the period of renewal is."""
    factors = [float(_means_factor(tf.constant(float(step)))) for step in range(8)]
    assert factors == [4, 0, 0, 0] * 2


@pytest.mark.parametrize("snap", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "settings", [{}, {"codebook": "uniform"}, {"preserve_sparsity": True}], ids=str
)
def test_outside_of_a_step_weights_move_as_within_one(settings, snap, rng):
    model = FAMILIES["separable"].build()
    for variable in model.trainable_variables:
        values = keras.ops.convert_to_numpy(variable)
        variable.assign(np.where(rng.random(values.shape) < 0.3, 0.0, values))
    sharing = sws.apply_soft_weight_sharing(model, train_size=100, **settings).sharing
    sharing.snap.assign(snap)
    within, outside = sharing.step(training=False)[0], sharing.snapped()
    assert [id(v) for v, _ in outside] == [id(v) for v, _ in within]
    for (_, left), (_, right) in zip(outside, within, strict=True):
        np.testing.assert_array_equal(left, right)
