"""The default complexity weight, and the learning rate that it depends on."""

import keras
import numpy as np
import pytest
import tf_keras
from families import sequential

import tfmot_sws as sws
from tfmot_sws.training.complexity_weight import peak_learning_rate, resolve


@pytest.mark.parametrize(
    ("train_size", "rate", "expected"),
    [
        (50_000, 8e-3, 0.09),
        (10**7, 8e-3, 0.09),
        (500, 8e-3, 0.009),
        (50_000, 1.0, 0.09),
        (50_000, 4e-3, 0.045),
    ],
)
def test_default(train_size, rate, expected):
    assert resolve(None, train_size, rate) == pytest.approx(expected)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_peak_of_a_constant_rate(library):
    assert peak_learning_rate(library.optimizers.SGD(0.25), 10) == pytest.approx(0.25)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_peak_of_a_schedule(library):
    optimizers = library.optimizers
    falling = optimizers.Adam(optimizers.schedules.CosineDecay(3e-3, 100))
    assert peak_learning_rate(falling, 100) == pytest.approx(3e-3)
    warm = optimizers.schedules.CosineDecay(0.0, 80, warmup_target=5e-3, warmup_steps=20)
    assert peak_learning_rate(optimizers.Adam(warm), 100) == pytest.approx(5e-3)


def test_peak_within_a_loss_scaling_optimizer():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(2e-3))
    assert peak_learning_rate(scaled, 10) == pytest.approx(2e-3)


def test_without_an_optimizer_it_is_the_usual_rate():
    assert peak_learning_rate(None, 10) == pytest.approx(1e-3)


def test_schedule_of_a_class_that_nobody_knows():
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 7e-3 / (1 + keras.ops.cast(step, "float32"))

        def get_config(self):
            return {}

    assert peak_learning_rate(keras.optimizers.Adam(Own()), 10) == pytest.approx(7e-3)


@pytest.mark.parametrize(("given", "expected"), [(None, 0.09 * 0.04 * 0.25), (0.3, 0.3)])
def test_is_settled_at_the_first_fit(given, expected):
    shared = sws.apply_soft_weight_sharing(
        sequential(), num_components=3, complexity_weight=given
    )
    shared.compile(keras.optimizers.Adam(2e-3), "mse")
    x = np.zeros((80, 10), "float32")
    for _ in range(2):
        shared.fit(x, x[:, :3], verbose=0, callbacks=[sws.AnnealAndMerge()])
        assert shared.sharing.base_complexity_weight == pytest.approx(expected)
        shared.optimizer.learning_rate = 1e-4
