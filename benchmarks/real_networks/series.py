"""A convolution and a bidirectional LSTM on series that are made up."""

import functools

import numpy as np

from benchmarks.real_networks.network import Network, Training, split

LENGTH, CHANNELS, NUM_CLASSES = 96, 3, 8
NUM_TRAINING, NUM_VALIDATION, NUM_TEST = 6_000, 1_500, 3_000
NOISE = 0.5


@functools.cache
def load():
    """Series of shape (n, 96, 3) in 8 classes, each class three answers to yes or no."""
    number = NUM_TRAINING + NUM_VALIDATION + NUM_TEST
    generator = np.random.default_rng(0)
    labels = generator.integers(0, NUM_CLASSES, number)
    first, second, third = ((labels[:, None] >> bit) % 2 for bit in range(3))
    series = np.stack(
        [
            _bursts(generator, first),
            _chirps(generator, second),
            _echoes(generator, third),
        ],
        axis=-1,
    )
    series += NOISE * generator.standard_normal(series.shape)
    return split(series.astype(np.float32), labels, NUM_VALIDATION, NUM_TEST)


def _uniform(generator, low, high, like):
    return generator.uniform(low, high, like.shape)


def _bump(center, width):
    """A bell around a time, one row a series."""
    return np.exp(-(((np.arange(LENGTH) - center) / width) ** 2))


def _bursts(generator, swapped):
    """A slow and a fast burst; the answer is which of them comes first."""
    times = _uniform(generator, 12, 38, swapped), _uniform(generator, 56, 84, swapped)
    slow, fast = np.where(swapped, times[::-1], times)
    phase = _uniform(generator, 0, 2 * np.pi, swapped)
    wave = np.arange(LENGTH)
    return _bump(slow, 8) * np.sin(0.5 * wave + phase) + _bump(fast, 8) * np.sin(wave + phase)


def _chirps(generator, falling):
    """A wave whose frequency rises or falls a little from a random start."""
    middle = _uniform(generator, 0.3, 0.7, falling)
    slope = np.where(falling, -1, 1) * _uniform(generator, 0.001, 0.006, falling)
    time = np.arange(LENGTH) - LENGTH / 2
    phase = _uniform(generator, 0, 2 * np.pi, falling)
    return np.sin(middle * time + 0.5 * slope * time**2 + phase)


def _echoes(generator, growing):
    """Two bumps far from each other; the answer is which of them is higher."""
    early, late = _uniform(generator, 8, 30, growing), _uniform(generator, 60, 88, growing)
    high, low = _uniform(generator, 1.2, 2.0, growing), _uniform(generator, 0.4, 1.0, growing)
    first, second = np.where(growing, (low, high), (high, low))
    return first * _bump(early, 5) + second * _bump(late, 5)


def recurrent(library):
    """A convolution, a bidirectional LSTM and a dense layer; 27 k parameters."""
    layers = library.layers
    return library.Sequential(
        [
            library.Input((LENGTH, CHANNELS)),
            layers.Conv1D(32, 5, strides=2, activation="relu"),
            layers.MaxPooling1D(),
            layers.Bidirectional(layers.LSTM(42)),
            layers.Dense(NUM_CLASSES),
        ],
        name="recurrent",
    )


NETWORKS = [Network("recurrent", recurrent, load, Training(15, 3e-3), Training(12))]
