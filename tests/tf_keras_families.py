"""Small models that both Keras 3 and tf_keras build, from either of the two modules."""

import numpy as np
import tf_keras
from families import NUM_EXAMPLES

SHAPES = {
    "sequential": (10,),
    "functional": (8, 8, 3),
    "nested": (8, 8, 3),
    "attention": (6, 4),
    "recurrent": (6, 4),
    "separable": (8, 8, 3),
}


@tf_keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Subclassed(tf_keras.Model):
    """A model that keeps layers in a list, and a weight of its own."""

    def __init__(self, units=12, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.stack = [tf_keras.layers.Dense(units, "relu"), tf_keras.layers.Dropout(0.1)]
        self.head = tf_keras.layers.Dense(3)

    def build(self, input_shape):
        self.own = self.add_weight(name="own", shape=(input_shape[-1], self.units))
        super().build(input_shape)

    def call(self, inputs):
        x = inputs
        for layer in self.stack:
            x = layer(x)
        return self.head(x + inputs @ self.own)

    def get_config(self):
        return {"units": self.units, "name": self.name}


def sequential(k):
    return k.Sequential([k.Input((10,)), k.layers.Dense(16, "relu"), k.layers.Dense(3)])


def functional(k):
    inputs = k.Input((8, 8, 3))
    x = k.layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = k.layers.ReLU()(k.layers.BatchNormalization()(x))
    return k.Model(inputs, k.layers.Dense(3)(k.layers.GlobalAveragePooling2D()(x)))


def nested(k):
    base = k.Sequential(
        [k.Input((8, 8, 3)), k.layers.Conv2D(6, 3), k.layers.BatchNormalization()], name="base"
    )
    frozen = k.layers.Conv2D(6, 1, trainable=False, name="frozen")
    inputs = k.Input((8, 8, 3))
    x = k.layers.GlobalAveragePooling2D()(frozen(base(inputs)))
    return k.Model(inputs, k.layers.Dense(3)(x))


def attention(k):
    inputs = k.Input((6, 4))
    x = k.layers.Dense(12)(inputs)
    x = k.layers.LayerNormalization(epsilon=1e-3)(
        k.layers.Add()([x, k.layers.MultiHeadAttention(2, 6)(x, x)])
    )
    return k.Model(inputs, k.layers.Dense(3)(k.layers.GlobalAveragePooling1D()(x)))


def recurrent(k):
    return k.Sequential([k.Input((6, 4)), k.layers.LSTM(8), k.layers.Dense(3)])


def separable(k):
    inputs = k.Input((8, 8, 3))
    x = k.layers.DepthwiseConv2D(3)(k.layers.SeparableConv2D(8, 3)(inputs))
    return k.Model(inputs, k.layers.Dense(3)(k.layers.Flatten()(x)))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 10), "float32"))
    return model


BUILDERS = {
    f.__name__: f for f in (sequential, functional, nested, attention, recurrent, separable)
}


def make_data(name, generator):
    """Inputs for a family, and targets that can be learned from them."""
    x = generator.standard_normal((NUM_EXAMPLES, *SHAPES.get(name, (10,)))).astype("float32")
    return x, x.reshape(NUM_EXAMPLES, -1)[:, :3] * 0.5
