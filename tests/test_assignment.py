"""Assignment in tensors against the reference."""

import numpy as np
import pytest
import tensorflow as tf
from mixtures import as_tensors, as_widths, random_mixture

from tfmot_sws.prior.assignment import Part, assign, count
from tfmot_sws.prior.density import DEAD, MixtureTensors
from tfmot_sws.prior.mixture import GaussianMixture


def assign_one(weights, mixture, width):
    """`assign` of a single tensor."""
    (index,) = assign(Part([tf.constant(weights)], mixture, as_widths(width)))
    return index


def clear_cases(mixture, weights, width):
    """The weights whose best component leads by more than float32 rounding."""
    if width:
        mixture = GaussianMixture(
            mixture.means, np.full(mixture.num_components, width), mixture.mixing_proportions
        )
    scores = np.sort(mixture.component_log_prob(weights), axis=-1)
    return weights[scores[:, -1] - scores[:, -2] > 1e-3]


@pytest.mark.parametrize("width", [0.0, 0.02, 0.3, 3.0])
@pytest.mark.parametrize(("seed", "num_components"), [(0, 7), (1, 7), (2, 7), (3, 60)])
def test_assign_equals_the_reference(seed, num_components, width):
    generator = np.random.default_rng(seed)
    mixture = random_mixture(generator, num_components)
    weights = generator.uniform(-1.5, 1.5, 2000).astype("float32")
    weights = clear_cases(mixture, weights, width)[:1900].reshape(5, -1)
    index = assign_one(weights, as_tensors(mixture), width)
    assert index.dtype == tf.int32
    np.testing.assert_array_equal(index, mixture.assign(weights, width or None))


def test_each_tensor_has_a_width_of_its_own(rng):
    mixture = random_mixture(rng)
    weights = [rng.uniform(-1.5, 1.5, n).astype("float32") for n in (500, 500, 20)]
    widths = [0.02, 3.0, 0.3]
    weights = [clear_cases(mixture, w, s) for w, s in zip(weights, widths, strict=True)]
    tensors = [tf.constant(w) for w in weights], as_tensors(mixture)
    indices = assign(Part(*tensors, [tf.constant(s) for s in widths]))
    for index, w, s in zip(indices, weights, widths, strict=True):
        np.testing.assert_array_equal(index, mixture.assign(w, s))


@pytest.mark.parametrize("width", [0.0, 0.3])
def test_count_is_that_of_the_assignment(width, rng):
    mixture = random_mixture(rng)
    weights = [rng.uniform(-1, 1, shape).astype("float32") for shape in ((30, 40), (7,))]
    arguments = [tf.constant(w) for w in weights], as_tensors(mixture), as_widths(width, 2)
    (counts,) = count([Part(*arguments)])
    expected = [np.bincount(np.ravel(i), minlength=7) for i in assign(Part(*arguments))]
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(np.sum(counts, axis=1), [1200, 7])


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_dead_components_are_never_chosen(width):
    fields = np.float32([[0, 0.5, 0.1], [9, 9, 9], [-0.1, DEAD, -3]])
    mixture = MixtureTensors(*(tf.constant(field) for field in fields))
    assert 1 not in assign_one([0.5, -40.0, 0.5001], mixture, width).numpy()


def test_equal_means_leave_the_likelier():
    fields = np.float32([[0, 0.5, 0.5], [5, 5, 5], np.log([0.6, 0.1, 0.3])])
    mixture = MixtureTensors(*(tf.constant(field) for field in fields))
    np.testing.assert_array_equal(assign_one([0.6, -0.2], mixture, 0.1), [2, 0])


@pytest.mark.parametrize("width", [0.0, 0.05])
@pytest.mark.parametrize("others", [2, 50])
def test_huge_weights_go_to_the_outermost(others, width):
    means = [0.0, *np.linspace(0.4, -0.4, others)]
    mixture = GaussianMixture(means, [0.1] * (1 + others), [0.8] + [0.2 / others] * others)
    index = assign_one([3e4, -3e4], as_tensors(mixture), width)
    np.testing.assert_array_equal(index, [1, others])


@pytest.mark.parametrize("num_components", [7, 40])
def test_an_empty_tensor_has_no_members(num_components, rng):
    mixture = as_tensors(random_mixture(rng, num_components))
    weights = [tf.zeros((0, 3)), tf.constant(rng.uniform(-1, 1, 9).astype("float32"))]
    part = Part(weights, mixture, as_widths(0.3, 2))
    (counts,) = count([part])
    np.testing.assert_array_equal(np.sum(counts, axis=1), [0, 9])
    assert [tuple(index.shape) for index in assign(part)] == [(0, 3), (9,)]
