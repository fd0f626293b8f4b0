"""Sums over bins against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tfmot_sws.backend.bins import LANES, bin_sums


@pytest.mark.parametrize("size", [0, 1, LANES, 5 * LANES + 3])
@pytest.mark.parametrize("num_bins", [1, 7])
def test_equals_numpy(size, num_bins, rng):
    values = rng.normal(size=size).astype("float32")
    index = rng.integers(0, num_bins, size).astype("int32")
    expected = np.bincount(index, values, minlength=num_bins)
    actual = bin_sums(tf.constant(values), tf.constant(index), num_bins)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_takes_any_shape():
    index = tf.constant([[0, 1], [1, 1]])
    np.testing.assert_array_equal(bin_sums(tf.ones((2, 2)), index, 3), [1, 3, 0])


def test_all_in_one_bin():
    ones = tf.ones(3_000_000)
    np.testing.assert_array_equal(bin_sums(ones, tf.zeros_like(ones, tf.int32), 2), [3e6, 0])
