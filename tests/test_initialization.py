"""The first mixture: even, over the range of the weights, unmoved by outliers."""

import numpy as np
import pytest

from tfmot_sws.prior.initialization import initial_mixture, root_mean_square


def start(weights, num_components=6, stddev=0.1, zero_proportion=0.9):
    return initial_mixture(
        weights, num_components, stddev=stddev, zero_proportion=zero_proportion
    )


def test_root_mean_square_is_over_all_entries(rng):
    weights = [rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=50).astype("float32")]
    expected = np.sqrt(np.mean(np.concatenate([w.ravel() for w in weights]) ** 2))
    assert root_mean_square(weights) == pytest.approx(expected)


def test_root_mean_square_does_not_overflow_in_half_precision():
    assert root_mean_square([np.full(100, 6e4, np.float16)]) == pytest.approx(60_000)


def test_root_mean_square_of_zeros_is_one():
    assert root_mean_square([np.zeros((3, 3), np.float32)]) == 1.0


@pytest.mark.parametrize(
    ("num_components", "means"),
    [
        (2, [0, 2]),
        (3, [0, -2, 2]),
        (4, [0, -2, 1, 2]),
        (5, [0, -2, -1, 1, 2]),
        (7, [0, -2, -4 / 3, -2 / 3, 2 / 3, 4 / 3, 2]),
    ],
)
def test_means_lie_evenly_on_both_sides_of_zero(num_components, means):
    mixture = start([np.float32([-2, 2, 1]), np.full((2, 2), 2.0)], num_components)
    np.testing.assert_allclose(mixture.means, means)


def test_widths_and_proportions():
    mixture = start([np.float32([-1, 1])], 5, stddev=0.25, zero_proportion=0.96)
    np.testing.assert_array_equal(mixture.stddevs, [0.25] * 5)
    np.testing.assert_allclose(mixture.mixing_proportions, [0.96, 0.01, 0.01, 0.01, 0.01])


def test_an_outlier_does_not_stretch_the_range(rng):
    weights = rng.uniform(-1, 1, 100_000)
    weights[7] = 50.0
    assert start([weights]).means.max() == pytest.approx(1.0, abs=1e-3)


def test_all_zero_weights_take_the_unit_range():
    assert start([np.zeros((4, 4), np.float32)], 3).means.tolist() == [0, -1, 1]
