"""Assignment in tensors against the reference."""

import numpy as np
import pytest
import tensorflow as tf
from mixtures import as_tensors, as_width, random_mixture

from tfmot_sws.prior.assignment import assign
from tfmot_sws.prior.density import DEAD, MixtureTensors
from tfmot_sws.prior.mixture import GaussianMixture


def clear_cases(mixture, weights, width):
    """The weights whose best component leads by more than float32 rounding."""
    if width:
        mixture = GaussianMixture(
            mixture.means, np.full(mixture.num_components, width), mixture.mixing_proportions
        )
    scores = np.sort(mixture.component_log_prob(weights), axis=-1)
    return weights[scores[:, -1] - scores[:, -2] > 1e-3]


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
