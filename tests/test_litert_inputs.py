"""Inputs that LiteRT's converter does not take as they are, and what formats leave undone."""

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers, ops

import tfmot_sws as sws
from tfmot_sws.litert.converter import with_batch_of_one

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="another process converts"
)


def test_dict_inputs_need_no_alphabetical_order(rng):
    z, a = keras.Input((3,), name="z"), keras.Input((2,), name="a")
    joined = layers.Concatenate()([layers.Dense(4)(z), layers.Dense(3)(a)])
    model = keras.Model({"z": z, "a": a}, layers.Dense(2)(joined))
    x = {
        name: rng.standard_normal((5, n)).astype("float32") for name, n in (("z", 3), ("a", 2))
    }
    tflite = sws.convert_to_tflite(model)
    outputs = sws.predict_tflite(tflite, x)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [None, 1])
def test_an_only_input_in_a_list_needs_no_warning(batch, rng):
    # So Keras 3 reads the .h5 files of Keras 2.
    inputs = keras.Input((4,), batch_size=batch)
    model = keras.Model([inputs], layers.Dense(3)(inputs))
    x = rng.standard_normal((5, 4)).astype("float32")
    assert sws.verify_tflite(sws.convert_to_tflite(model), model).difference < 1e-5
    tflite = sws.convert_to_tflite(with_batch_of_one(model), sample=x)
    assert sws.verify_tflite(tflite, model, x).difference < 1e-5


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Tokens(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.head = layers.Embedding(20, 4), layers.Dense(2)

    def build(self, _):
        self.embedding.build(None)
        self.head.build((None, 4))
        self.built = True

    def call(self, inputs):
        return self.head(ops.mean(self.embedding(inputs), axis=1))


def test_subclassed_models_take_the_integers_of_the_sample(rng):
    tokens = rng.integers(0, 20, (5, 6))
    model = Tokens()
    model(tokens)
    with pytest.raises(ValueError, match=r"Tokens\) is subclassed .* Pass sample="):
        sws.convert_to_tflite(model)
    tflite = sws.convert_to_tflite(model, sample=tokens)
    outputs = sws.predict_tflite(tflite, tokens.astype("int32"))
    np.testing.assert_allclose(outputs, ops.convert_to_numpy(model(tokens)), rtol=1e-5)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_made_up_images_are_large_enough(library):
    inputs = x = library.Input((None, None, 1))
    for _ in range(3):
        x = library.layers.Conv2D(2, 3, strides=2)(x)
    model = library.Model(inputs, library.layers.GlobalAveragePooling2D()(x))
    assert sws.convert_to_tflite(model)


def test_int8_says_what_it_leaves_in_float(rng):
    model = keras.Sequential([keras.Input((3, 3, 3, 1)), layers.Conv3D(2, 3), layers.Flatten()])
    x = rng.standard_normal((4, 3, 3, 3, 1)).astype("float32")
    with pytest.warns(UserWarning, match="keeps 1 tensors in float32"):
        sws.convert_to_tflite(model, "int8", representative_data=x)


class Tied(layers.Layer):
    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.embedding.embeddings))


def test_sparse_of_a_tied_embedding_is_a_float_file_and_says_so():
    embedding = layers.Embedding(64, 32)
    inputs = keras.Input((5,), dtype="int32")
    model = keras.Model(inputs, Tied(embedding)(embedding(inputs)))
    embedding.set_weights([np.eye(64, 32)])
    with pytest.warns(UserWarning, match="converter cannot store it sparse"):
        assert sws.convert_to_tflite(model, "sparse")


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_a_wrapped_model_is_not_saved_as_hdf5(library, tmp_path):
    model = library.Sequential([library.Input((4,)), library.layers.Dense(3)])
    shared = sws.apply_soft_weight_sharing(model)
    with pytest.raises(
        ValueError, match=r"cannot be loaded from an HDF5.* Save it as a .keras"
    ):
        shared.save(tmp_path / "shared.h5")
    shared.save_weights(str(tmp_path / "shared.weights.h5"))
