"""Every weight gets the position of its place between two knots."""

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


def places_of(weights, knots):
    """Interval and place in it of each weight."""
    interval, place = split(locate(tf.constant(weights), knots.cells), PLACE_BITS)
    return interval.numpy(), place.numpy() / 2**PLACE_BITS


@pytest.mark.parametrize("num_components", [1, 2, 17, 64, 500])
def test_places_tell_the_weights(num_components, rng):
    knots = knots_of(as_tensors(random_mixture(rng, num_components)))
    interval, place = places_of(WEIGHTS, knots)
    ends, steps = knots.ends.numpy().astype("float64"), knots.steps.numpy()
    assert ((place >= 0) & (place < 1)).all()
    error = np.abs(ends[interval] + place * steps[interval] - WEIGHTS)
    # Rounding errors of the weight, of the distance near zero, and of the place.
    assert (error <= 3e-7 * np.abs(WEIGHTS) + 1e-7 + 4e-6 * steps[interval]).all()


@pytest.mark.parametrize("num_components", [1, 17, 500])
def test_knots_ascend(num_components, rng):
    knots = knots_of(as_tensors(random_mixture(rng, num_components)))
    assert (np.diff(knots.ends) > 0).all()
    np.testing.assert_allclose(np.diff(knots.ends), knots.steps, rtol=1e-2)


def test_positions_ascend_with_the_weights(rng):
    knots = knots_of(as_tensors(random_mixture(rng, 17)))
    positions = locate(tf.constant(np.sort(WEIGHTS)), knots.cells).numpy()
    assert (np.diff(positions) >= 0).all()
    assert positions[0] >= 0


def test_dead_components_do_not_move_the_knots(rng):
    alive = as_tensors(random_mixture(rng, 5))
    dead = np.float32([[0.1, -70.0], [12.0, 0.0], [DEAD, DEAD]])
    joined = MixtureTensors(*(np.concatenate(p) for p in zip(alive, dead, strict=True)))
    np.testing.assert_allclose(knots_of(joined).ends, knots_of(alive).ends, rtol=1e-6)


@pytest.mark.parametrize("weight", [np.inf, -np.inf, 3e38, np.nan])
def test_every_number_has_a_place(weight, rng):
    knots = knots_of(as_tensors(random_mixture(rng, 5)))
    interval, _ = places_of(np.float32([weight]), knots)
    assert 0 <= interval[0] < len(knots.steps)
