"""Layers that keep a vocabulary, or assets of their own, through strip and files."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from families import GENTLE

import tfmot_sws as sws

WORDS = np.array([["red"], ["blue"], ["red"], ["unknown"]])


def text(library, mode):
    length = {"output_sequence_length": 2} if mode == "int" else {}
    layer = library.layers.TextVectorization(output_mode=mode, **length)
    layer.adapt(["red fish", "blue fish"])
    return layer


def lookup(library, _):
    layer = library.layers.StringLookup(output_mode="one_hot")
    layer.adapt(WORDS[:3])
    return layer


@pytest.mark.parametrize("library", [keras, tf_keras])
@pytest.mark.parametrize(
    ("make", "mode"), [(text, "int"), (text, "tf_idf"), (text, "multi_hot"), (lookup, "")]
)
def test_vocabulary_survives(library, make, mode, tmp_path):
    inputs = library.Input((1,), dtype="string")
    x = make(library, mode)(inputs)
    if mode == "int":
        x = library.layers.Flatten()(library.layers.Embedding(6, 3)(x))
    model = library.Model(inputs, library.layers.Dense(2)(x))
    shared = sws.apply_soft_weight_sharing(model, train_size=4, **GENTLE)
    shared.snap.assign(1.0)
    words = tf.constant(WORDS)
    expected = np.asarray(shared(words))
    assert np.ptp(expected, axis=0).max() > 0
    small = sws.strip_soft_weight_sharing(shared)
    sws.save_compressed(small, tmp_path / "small.sws")
    small.save(tmp_path / "small.keras")
    saved = library.models.load_model(tmp_path / "small.keras")
    for plain in (small, sws.load_compressed(tmp_path / "small.sws"), saved):
        np.testing.assert_allclose(plain(words), expected, rtol=1e-6)
    # The user's layer is as it was.
    assert model.layers[1].get_config()["vocabulary"] is None


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class WithAsset(keras.layers.Layer):
    """Adds a number that it keeps in a file of its own."""

    number = 0.0

    def call(self, inputs):
        return inputs + self.number

    def save_assets(self, folder):
        (pathlib.Path(folder) / "number").write_text(str(self.number))

    def load_assets(self, folder):
        self.number = float((pathlib.Path(folder) / "number").read_text())


def test_own_assets_survive_strip_and_are_no_part_of_a_compressed_file(tmp_path):
    layer = WithAsset(name="adds")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), layer])
    layer.number = 7.0
    shared = sws.apply_soft_weight_sharing(model, train_size=4, **GENTLE)
    shared.snap.assign(1.0)
    small = sws.strip_soft_weight_sharing(shared)
    assert small.layers[-1].number == 7.0
    with pytest.raises(ValueError, match=r"'adds', which keeps more.*weights_only=True"):
        sws.save_compressed(small, tmp_path / "small.sws")


def test_a_tflite_file_takes_integers_in_place_of_strings():
    """LiteRT has no operations on strings: the error says what to export."""
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            text(keras, "int"),
            keras.layers.Embedding(6, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    with pytest.raises(
        sws.ExportError, match=r"no operations on strings\. Make a model of the"
    ) as caught:
        sws.convert_to_tflite(model, sample=WORDS)
    assert len(str(caught.value)) < 800
    # Python would show the converter's words, too.
    assert caught.value.__cause__ is None
    behind = keras.Sequential([keras.Input((2,), dtype="int64"), *model.layers[1:]])
    integers = model.layers[0](WORDS).numpy()
    tflite = sws.convert_to_tflite(behind, sample=integers)
    outputs = sws.predict_tflite(tflite, integers)
    np.testing.assert_allclose(outputs, model.predict(tf.constant(WORDS), verbose=0), atol=1e-6)


def test_a_vocabulary_that_fills_most_of_a_stated_size_is_told():
    words = [f"{a}{b}{c}" for a in "qxzvkw" for b in "aeiouy" for c in "bdfghl"]
    keras.utils.set_random_seed(0)
    layer = keras.layers.TextVectorization(output_sequence_length=4, vocabulary=words)
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="string"),
            layer,
            keras.layers.Embedding(len(words) + 2, 8),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ],
        name="net",
    )
    with pytest.raises(ValueError, match="vocabularies") as refusal:
        sws.apply_soft_weight_sharing(model, target_size=100)
    least = int(re.search(r"more than ([\d,]+) bytes", str(refusal.value))[1].replace(",", ""))
    with pytest.warns(sws.SoftWeightSharingWarning, match="does not share.* a vocabulary"):
        sws.apply_soft_weight_sharing(model, target_size=1.15 * least)
    # Neither with room for the weights, nor where the vocabulary does not count.
    sws.apply_soft_weight_sharing(model, target_size=2 * least)
    sws.apply_soft_weight_sharing(model, target_bits=0.8)
