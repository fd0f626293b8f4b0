"""The default complexity weight: a price a nat, within bounds for all weights together."""

import keras
import numpy as np
import pytest
from families import RANDOM_NETWORKS, sequential

import tfmot_sws as sws
from tfmot_sws.training.complexity_weight import resolve


@pytest.mark.parametrize(
    ("train_size", "num_weights", "expected"),
    [
        (50_000, 78_000, 50_000 * 7e-7),
        (500, 78_000, 500 * 7e-7),
        # A tiny network pays more a weight, a huge one less.
        (1000, 219, 1000 * 0.012 / 219),
        (1000, 10**6, 1000 * 0.3 / 10**6),
        (1000, 0, 12.0),
    ],
)
def test_default(train_size, num_weights, expected):
    assert resolve(None, train_size, num_weights) == pytest.approx(expected)


@pytest.mark.parametrize("num_weights", [100, 17_142, 17_143, 428_571, 428_572, 10**8])
def test_price_is_the_same_whatever_the_number_of_examples(num_weights):
    prices = [resolve(None, n, num_weights) / n for n in (1, 400, 10**7)]
    assert prices == pytest.approx([prices[0]] * 3)
    assert 0.012 * (1 - 1e-9) <= prices[0] * num_weights <= 0.3 * (1 + 1e-9)


@pytest.mark.parametrize("train_size", [None, 100])
def test_what_is_given_stays(train_size):
    assert resolve(0.3, train_size, 1000) == 0.3


def test_unknown_without_the_number_of_examples():
    assert resolve(None, None, 1000) is None


# Of the 227 weights of the network all are shared.
@pytest.mark.parametrize(("given", "expected"), [(None, 80 * 0.012 / 227), (0.3, 0.3)])
@RANDOM_NETWORKS
def test_is_settled_at_the_first_fit(given, expected):
    shared = sws.apply_soft_weight_sharing(
        sequential(), num_components=3, complexity_weight=given
    )
    assert sum(np.size(v) for group in shared.groups for v in group.variables) == 227
    shared.compile(keras.optimizers.Adam(2e-3), "mse")
    x = np.zeros((80, 10), "float32")
    for _ in range(2):
        shared.fit(x, x[:, :3], epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge()])
        assert float(shared.complexity_weight.value) == pytest.approx(expected)
        shared.optimizer.learning_rate = 1e-4
