"""Small dense networks on the tables of scikit-learn, with a few hundred examples."""

import functools

import numpy as np
from sklearn import datasets

from benchmarks.real_networks.network import (
    CLASSIFICATION,
    REGRESSION,
    Network,
    Training,
    split,
)


@functools.cache
def load_breast_cancer():
    """369, 100 and 100 rows of 30 columns, and two classes."""
    return _load(datasets.load_breast_cancer, 100)


@functools.cache
def load_diabetes():
    """282, 80 and 80 rows of 10 columns, and how far the disease went, standardized."""
    *parts, test = _load(datasets.load_diabetes, 80)
    targets = parts[0][1]
    mean, deviation = targets.mean(), targets.std()
    return tuple((x, ((y - mean) / deviation).astype(np.float32)) for x, y in (*parts, test))


def _load(read, num_held_out):
    """Rows in random order, columns standardized by the training rows."""
    x, y = read(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    training = x[: len(x) - 2 * num_held_out]
    x = (x - training.mean(0)) / training.std(0)
    return split(x.astype(np.float32), y, num_held_out, num_held_out)


def perceptron(library, num_inputs, num_outputs):
    """Two hidden layers of 64 units."""
    layers = library.layers
    return library.Sequential(
        [
            library.Input((num_inputs,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(num_outputs),
        ],
        name="perceptron",
    )


def _make(name, load, num_inputs, num_outputs, task):
    build = functools.partial(perceptron, num_inputs=num_inputs, num_outputs=num_outputs)
    return Network(
        name, build, load, Training(30, batch_size=32), Training(100, batch_size=32), task
    )


NETWORKS = [
    _make("breast-cancer", load_breast_cancer, 30, 2, CLASSIFICATION),
    _make("diabetes", load_diabetes, 10, 1, REGRESSION),
]
