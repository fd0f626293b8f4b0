"""Models with layers, functions and states that Keras does not know, and models in models."""

import keras
import numpy as np
import pytest
import tf_keras
from families import GENTLE
from keras import layers, ops

import tfmot_sws as sws


def double(x):
    return 2 * x


class Ones(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None, **_kwargs):
        return ops.ones(shape, dtype)


class Cell(layers.Layer):
    """A recurrent cell, which its RNN holds."""

    state_size = 3

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], 3))

    def call(self, inputs, states):
        state = ops.tanh(ops.matmul(inputs, self.kernel) + states[0])
        return state, [state]


def strip(model):
    shared = sws.apply_soft_weight_sharing(model, train_size=4, **GENTLE)
    shared.snap.assign(1.0)
    return shared, sws.strip_soft_weight_sharing(shared)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Dense(3, activation=double),
        layers.Dense(3, kernel_initializer=Ones()),
        layers.TimeDistributed(layers.Dense(3, activation=double)),
        layers.RNN(Cell()),
    ],
    ids=["activation", "initializer", "within a wrapper", "cell"],
)
def test_unregistered_parts_are_rebuilt(layer):
    shared, small = strip(keras.Sequential([keras.Input((5, 4)), layer]))
    x = np.linspace(0, 1, 40).reshape(2, 5, 4).astype("float32")
    np.testing.assert_allclose(small.predict(x), shared.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_a_scope_of_the_users_own_has_effect(library):
    class Hidden(library.layers.Layer):
        """Names a function in its configuration, and does not hold it."""

        def call(self, inputs):
            return 2 * inputs

        def get_config(self):
            return {**super().get_config(), "function": "twice"}

        @classmethod
        def from_config(cls, config):
            assert library.saving.get_registered_object(config.pop("function")) is double
            return cls(**config)

    model = library.Sequential([library.Input((4,)), library.layers.Dense(3), Hidden()])
    with library.saving.custom_object_scope({"twice": double}):
        assert len(strip(model)[1].layers) == 2


def test_what_cannot_be_rebuilt_is_refused_at_wrap_time_in_a_sentence():
    class Own(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.head = layers.Dense(units)

        def call(self, inputs):
            return self.head(inputs)

    model = Own(3)
    model(np.zeros((1, 4), "float32"))
    message = r"Own\) cannot be rebuilt .* need get_config\(\)"
    with pytest.raises(ValueError, match=message) as caught:
        sws.apply_soft_weight_sharing(model)
    assert len(str(caught.value)) < 600


class Nameless(layers.Layer):
    """As in many a tutorial."""

    def __init__(self, **_kwargs):
        super().__init__()

    def call(self, inputs):
        return 2 * inputs

    def get_config(self):
        return {}


@pytest.mark.parametrize("functional", [True, False])
def test_batch_norm_is_folded_beside_a_layer_without_a_name(functional):
    parts = [Nameless(), layers.Dense(3), layers.BatchNormalization(), Nameless()]
    model = keras.Sequential([keras.Input((4,)), *parts])
    if functional:
        inputs = x = keras.Input((4,))
        for part in parts:
            x = part(x)
        model = keras.Model(inputs, x)
    parts[2].moving_mean.assign([1.0, 2.0, 3.0])
    folded = sws.fold_batch_norm(model)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    x = np.eye(4, dtype="float32")
    expected = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(ops.convert_to_numpy(folded(x)), expected, rtol=1e-5)


def test_stateful_layers_are_no_part_of_a_compressed_file(tmp_path):
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, 5, 4)), layers.LSTM(3, stateful=True, name="memory")]
    )
    with pytest.raises(ValueError, match=r"'memory', which is stateful.*weights_only=True"):
        sws.save_compressed(model, tmp_path / "model.sws")
    sws.save_compressed(model, tmp_path / "model.sws", weights_only=True)
    before = model.get_weights()
    model.set_weights([0 * w for w in before])
    sws.load_compressed(tmp_path / "model.sws", model=model)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
