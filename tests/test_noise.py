"""The noise: uniform, independent from step to step and place to place, and reproducible."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import kstest

from tfmot_sws.prior.noise import seed_of, uniform_noise


def noise(shape, step, position=0):
    return uniform_noise(shape, seed_of(tf.constant(float(step)), position)).numpy()


@pytest.mark.parametrize("step", [0, 1, 7, 100_000])
def test_is_uniform(step):
    values = noise((300, 100), step)
    assert values.dtype == np.float32
    assert values.min() >= -0.5
    assert values.max() <= 0.5
    assert kstest(values.ravel() + 0.5, "uniform").pvalue > 1e-3


def test_neighbours_are_uncorrelated():
    """At every distance up to 2,000, so along rows and columns of kernels alike."""
    values = noise((1 << 18,), 3).astype("float64")
    spectrum = np.abs(np.fft.rfft(values, 2 * values.size)) ** 2
    correlations = np.fft.irfft(spectrum)[: 2000 + 1] / (values @ values)
    assert np.abs(correlations[1:]).max() < 6 / np.sqrt(values.size)


@pytest.mark.parametrize("change", [{"step": 4}, {"position": 1}, {"step": 5, "position": 2}])
def test_steps_and_tensors_are_uncorrelated(change):
    other = {"step": 3, "position": 0, **change}
    first, second = noise((30_000,), 3), noise((30_000,), **other)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_averages_out_over_steps():
    mean = np.mean([noise((1000,), step) for step in range(200)], axis=0)
    assert np.abs(mean).max() < 5 * np.sqrt(1 / 12 / 200)


def test_same_in_a_compiled_function():
    compiled = tf.function(lambda s: uniform_noise((7, 11), seed_of(s, 2)), jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(9.0)), noise((7, 11), 9, 2))


@pytest.mark.parametrize("shape", [(), (0,), (1,)])
def test_small_shapes(shape):
    assert noise(shape, 0).shape == shape
