"""Soft targets: against SciPy, for logits and probabilities, all forms of labels, in `fit`."""

import keras
import numpy as np
import pytest
from scipy.special import softmax

import tfmot_sws as sws

N, CLASSES = 12, 4


@pytest.fixture
def x(rng):
    return rng.normal(size=(N, 5)).astype("float32")


@pytest.fixture
def y(rng):
    return rng.integers(0, CLASSES, N)


def classifier(activation=None, classes=CLASSES):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(classes, activation=activation)]
    )


def expected(x, y, temperature, weight):
    kernel, bias = classifier().get_weights()
    soft = softmax((x @ kernel + bias).astype("float64") / temperature, axis=-1)
    return (1 - weight) * np.eye(CLASSES)[y] + weight * soft


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (4.0, 0.5), (0.5, 0.9)])
def test_are_scipys(activation, temperature, weight, x, y):
    targets = sws.soft_targets(
        classifier(activation), x, y, temperature=temperature, weight=weight
    )
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, expected(x, y, temperature, weight), atol=1e-5)
    np.testing.assert_allclose(targets.sum(axis=-1), 1.0, rtol=1e-6)


def test_weight_zero_leaves_the_labels(x, y):
    targets = sws.soft_targets(classifier(), x, y, weight=0.0)
    np.testing.assert_array_equal(targets, np.eye(CLASSES)[y])


@pytest.mark.parametrize("form", [list, lambda y: y[:, None], lambda y: np.eye(CLASSES)[y]])
def test_every_form_of_labels(form, x, y):
    targets = sws.soft_targets(classifier(), x, form(y))
    np.testing.assert_array_equal(targets, sws.soft_targets(classifier(), x, y))


def test_one_answer_a_place(rng):
    model = keras.Sequential([keras.Input((7, 5)), keras.layers.Dense(CLASSES)])
    x, y = rng.normal(size=(N, 7, 5)), rng.integers(0, CLASSES, (N, 7))
    assert sws.soft_targets(model, x, y).shape == (N, 7, CLASSES)


def test_certain_answers_stay_finite(x, y):
    model = classifier("softmax")
    model.set_weights([1e4 * w for w in model.get_weights()])
    assert np.all(np.isfinite(sws.soft_targets(model, x, y)))


def test_tf_keras_model(x, y):
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential(
        [tf_keras.layers.Input((5,)), tf_keras.layers.Dense(CLASSES, activation="softmax")]
    )
    model.set_weights(classifier().get_weights())
    np.testing.assert_allclose(
        sws.soft_targets(model, x, y), expected(x, y, 4.0, 0.5), atol=1e-5
    )


def test_fit_on_them(x, y):
    model = classifier()
    targets = sws.soft_targets(model, x, y)
    shared = sws.apply_soft_weight_sharing(model, num_components=4)
    shared.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True))
    shared.fit(x, targets, epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge()])
    assert sws.strip_soft_weight_sharing(shared).predict(x, verbose=0).shape == targets.shape


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3), r"Labels of shape \(3,\) do not fit outputs of shape \(12, 4\)"),
        (np.full(N, 4), "whole numbers from 0 to 3.*received values from 4 to 4"),
        (np.full(N, 0.5), "whole numbers"),
        (np.full(N, -1), "whole numbers"),
    ],
)
def test_labels_that_do_not_fit(labels, message, x):
    with pytest.raises(ValueError, match=message):
        sws.soft_targets(classifier(), x, labels)


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": 0.0}, {"temperature": np.inf}, {"weight": -0.1}, {"weight": np.nan}],
)
def test_arguments_out_of_range(arguments, x, y):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must"):
        sws.soft_targets(classifier(), x, y, **arguments)


def test_needs_one_output_of_several_classes(x, y):
    with pytest.raises(ValueError, match=r"two or more classes; received outputs \(12, 1\)"):
        sws.soft_targets(classifier(classes=1), x, y)
    entry = keras.Input((5,))
    heads = [keras.layers.Dense(CLASSES)(entry) for _ in range(2)]
    with pytest.raises(ValueError, match="received outputs list"):
        sws.soft_targets(keras.Model(entry, heads), x, y)
