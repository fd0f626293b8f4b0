"""Where knots lie, and that every weight finds its place among them."""

import numpy as np
import pytest
import tensorflow as tf
from mixtures import as_tensors, random_mixture

from tfmot_sws.prior.density import DEAD, MixtureTensors
from tfmot_sws.prior.table_knots import PLACE_BITS, locate, place_knots, split

WEIGHTS = np.concatenate(
    [np.linspace(-2, 2, 4001), np.geomspace(1e-12, 1e5, 400), -np.geomspace(1e-12, 1e5, 400)]
).astype("float32")


def knots_of(mixture):
    return place_knots(MixtureTensors(*map(tf.constant, mixture)))


def places_of(weights, ruler):
    """Interval and place in it of each weight."""
    interval, place = split(locate(tf.constant(weights), ruler), PLACE_BITS)
    return interval.numpy(), place.numpy() / 2**PLACE_BITS


@pytest.mark.parametrize("num_components", [1, 2, 17, 64, 500])
def test_places_tell_the_weights(num_components, rng):
    knots = knots_of(as_tensors(random_mixture(rng, num_components)))
    interval, place = places_of(WEIGHTS, knots.ruler)
    ends, steps = knots.ends.numpy().astype("float64"), knots.steps.numpy()
    assert ((place >= 0) & (place < 1)).all()
    error = np.abs(ends[interval] + place * steps[interval] - WEIGHTS)
    # Two roundings of the weight, of the distance from zero in extents, and of the place.
    extent = 1.0 / float(knots.ruler.scale)
    assert (error <= 3e-7 * np.abs(WEIGHTS) + 1e-8 * extent + 4e-6 * steps[interval]).all()


def test_knots_ascend(rng):
    knots = knots_of(as_tensors(random_mixture(rng, 17)))
    assert (np.diff(knots.ends) > 0).all()
    np.testing.assert_allclose(np.diff(knots.ends), knots.steps, rtol=1e-2)


def test_positions_ascend_with_the_weights(rng):
    ruler = knots_of(as_tensors(random_mixture(rng, 17))).ruler
    positions = locate(tf.constant(np.sort(WEIGHTS)), ruler).numpy()
    assert (np.diff(positions) >= 0).all()
    assert positions[0] >= 0


def test_narrow_components_get_the_knots():
    """Twice as many as widths, up to eight widths away; the dead get none."""
    stddevs = np.float32([1.0, 1e-3, 1e-3])
    means, log_proportions = np.float32([0, 0.3, -0.3]), np.float32([-0.1, -3.0, DEAD])
    knots = knots_of(MixtureTensors(means, -2 * np.log(stddevs), log_proportions))
    ends = knots.ends.numpy()
    assert np.sum(np.abs(ends - 0.3) < 8e-3) >= 32
    assert np.sum(np.abs(ends + 0.3) < 8e-3) < 32


@pytest.mark.parametrize("weight", [np.inf, -np.inf, 3e38, np.nan])
def test_every_number_has_a_place(weight, rng):
    knots = knots_of(as_tensors(random_mixture(rng, 5)))
    interval, _ = places_of(np.float32([weight]), knots.ruler)
    assert 0 <= interval[0] < len(knots.steps)
