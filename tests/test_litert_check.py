"""What an export is judged by: its measures, its limits, and the inputs of the check."""

import keras
import numpy as np
import pytest
from families import sequential
from keras import layers

import tfmot_sws as sws
from tfmot_sws.litert.verification import greatest_difference, relative_error


def oracle(actual, expected):
    """The relative error by its definition."""
    deviation = expected - expected.mean(axis=tuple(range(expected.ndim - 1)), keepdims=True)
    return np.sqrt(np.mean((actual - expected) ** 2) / np.mean(deviation**2))


@pytest.mark.parametrize("shape", [(50, 10), (6, 4, 4, 3)])
def test_relative_error_is_that_of_its_definition(shape, rng):
    expected = rng.standard_normal(shape) + 7
    actual = expected + 0.1 * rng.standard_normal(shape)
    assert relative_error([actual], [expected], True) == pytest.approx(oracle(actual, expected))
    plain = np.sqrt(np.mean((actual - expected) ** 2) / np.mean(expected**2))
    assert relative_error([actual], [expected], False) == pytest.approx(plain)


def test_a_file_that_ignores_its_inputs_is_far_off_however_large_the_mean(rng):
    expected = 100 + rng.standard_normal((40, 3))
    constant = np.broadcast_to(expected.mean(axis=0), expected.shape)
    assert relative_error([constant], [expected], True) == pytest.approx(1)


def test_one_example_of_many_does_not_decide():
    expected = np.eye(10)[np.arange(500) % 10]
    actual = expected.copy()
    actual[0] = expected[1]
    assert greatest_difference([actual], [expected]) == 1
    assert relative_error([actual], [expected], True) < 0.1


def test_infinities_and_nan_must_be_the_same():
    expected = np.array([[1.0, -np.inf, np.nan]])
    assert greatest_difference([expected], [expected]) == 0
    assert relative_error([expected], [expected], True) == 0
    other = np.array([[1.0, 0.0, np.nan]])
    assert not greatest_difference([other], [expected]) <= 1e9
    assert not relative_error([other], [expected], True) <= 1e9


@pytest.fixture(scope="module")
def classifier():
    """A steep softmax, and inputs of which many lie near a boundary."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((10,)), layers.Dense(16, "relu"), layers.Dense(4, "softmax")]
    )
    model.layers[1].kernel.assign(8 * model.layers[1].kernel)
    return model, np.random.default_rng(0).standard_normal((256, 10)).astype("float32")


def test_int8_is_judged_by_all_outputs(classifier):
    model, x = classifier
    tflite = sws.convert_to_tflite(model, "int8", representative_data=x)
    verification = sws.verify_tflite(tflite, model, x)
    assert verification.agreement > 0.95
    assert verification.difference > 0.05 > verification.relative_error


def test_a_broken_int8_file_is_refused_unless_the_user_allows_it(classifier):
    """Ranges learned from inputs that are far too small saturate every activation."""
    model, x = classifier
    arguments = {"representative_data": x / 100, "sample": x}
    with pytest.raises(sws.ExportError, match=r"of the signal.*of the classes.*tolerance="):
        sws.convert_to_tflite(model, "int8", **arguments)
    assert sws.convert_to_tflite(model, "int8", tolerance=float("inf"), **arguments)


@pytest.mark.parametrize("tolerance", [0, -1.0, float("nan")])
def test_a_tolerance_must_be_positive(tolerance):
    with pytest.raises(ValueError, match="tolerance must be a number above 0"):
        sws.convert_to_tflite(sequential(), tolerance=tolerance)


@pytest.fixture(scope="module")
def masked():
    """A model whose outputs are NaN where all tokens are padding."""
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(tokens)
    return keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def test_made_up_tokens_are_no_padding(masked):
    assert sws.convert_to_tflite(masked)


def test_a_sample_that_gives_nan_is_named(masked):
    with pytest.raises(sws.ExportError, match="itself computes nothing but NaN"):
        sws.convert_to_tflite(masked, sample=np.zeros((3, 5)))


def test_bytes_are_inputs_for_floats(rng):
    model = keras.Sequential([keras.Input((10,)), layers.Rescaling(1 / 255), layers.Dense(3)])
    pixels = rng.integers(0, 256, (16, 10), dtype=np.uint8)
    tflite = sws.convert_to_tflite(model, "int8", representative_data=pixels)
    assert tflite == sws.convert_to_tflite(
        model, "int8", representative_data=pixels.astype("float32")
    )
    outputs = sws.predict_tflite(tflite, pixels)
    np.testing.assert_array_equal(outputs, sws.predict_tflite(tflite, pixels.astype("float32")))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (np.zeros((3, 9)), r"takes arrays of shape \(None, 10\); sample has one of .*\(3, 9\)"),
        (np.zeros(10), "takes arrays of shape"),
        (np.zeros((0, 10)), "sample holds no examples"),
        ([np.zeros((3, 10))] * 2, r"takes 1 inputs .*; sample has 2 arrays"),
        (np.full((3, 10), "a"), "takes float32; received <U1"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_before_any_work(sample, message, monkeypatch):
    monkeypatch.setattr("tfmot_sws.litert.formats.convert", None)
    with pytest.raises(ValueError, match=message):
        sws.convert_to_tflite(sequential(), sample=sample)


def test_fractions_are_no_tokens(masked):
    with pytest.raises(ValueError, match="takes int32; received float64"):
        sws.convert_to_tflite(masked, sample=np.full((3, 5), 0.5))
    tflite = sws.convert_to_tflite(masked, sample=np.full((3, 5), 2.0))
    with pytest.raises(ValueError, match="takes int32; received float64"):
        sws.predict_tflite(tflite, np.full((3, 5), 0.5))
