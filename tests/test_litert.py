"""LiteRT export: quiet, checked, and clear when it cannot be done."""

import keras
import numpy as np
import pytest
from families import FAMILIES, sequential

import tfmot_sws as sws
from tfmot_sws import litert


def test_export_is_quiet(capfd):
    sws.convert_to_tflite(sequential())
    captured = capfd.readouterr()
    assert "Saved artifact" not in captured.out + captured.err


def test_prediction_takes_any_number_of_examples(rng):
    model = sequential()
    x = rng.standard_normal((7, 10)).astype("float32")
    (outputs,) = sws.predict_tflite(sws.convert_to_tflite(model), x, batch_size=3)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_recurrent_model_gets_a_batch_of_one(rng):
    family = FAMILIES["recurrent"]
    model = family.build()
    tflite = sws.convert_to_tflite(model)
    x = family.make_inputs(rng)
    (outputs,) = sws.predict_tflite(tflite, x)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_outputs_keep_their_order(rng):
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(units)(inputs) for units in range(1, 13)]
    tflite = sws.convert_to_tflite(keras.Model(inputs, outputs))
    predicted = sws.predict_tflite(tflite, rng.standard_normal((2, 4)).astype("float32"))
    assert [p.shape[1] for p in predicted] == list(range(1, 13))


def test_a_difference_is_found():
    model = sequential()
    tflite = sws.convert_to_tflite(model)
    model.layers[-1].bias.assign_add(np.ones(3))
    assert sws.verify_tflite(tflite, model) > 0.1


def test_a_model_that_exports_wrongly_is_turned_down(monkeypatch):
    wrong = sws.convert_to_tflite(sequential())
    monkeypatch.setattr(litert, "_convert", lambda _: wrong)
    with pytest.raises(
        litert.ExportError, match=r"differ from those of .* Nothing was written"
    ):
        sws.convert_to_tflite(sequential())


def test_unconvertible_model_says_why():
    class Exotic(keras.layers.Layer):
        def call(self, inputs):
            import tensorflow as tf

            return tf.py_function(lambda x: x, [inputs], tf.float32)

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((4,))
    model = keras.Model(
        inputs, keras.layers.Dense(2)(keras.layers.Reshape((4,))(Exotic()(inputs)))
    )
    with pytest.raises(litert.ExportError, match=r"could not convert"):
        sws.convert_to_tflite(model)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: (sequential(), "int3"), ValueError, "weights must be one of"),
        (
            lambda: (sws.apply_soft_weight_sharing(sequential()), "float32"),
            TypeError,
            "expects a stripped model",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        sws.convert_to_tflite(*make())


def test_several_inputs_need_names():
    tflite = sws.convert_to_tflite(FAMILIES["multi_io"].build())
    with pytest.raises(ValueError, match="pass a dict with keys"):
        sws.predict_tflite(tflite, [np.zeros((1, 8, 8, 3)), np.zeros((1, 10))])
