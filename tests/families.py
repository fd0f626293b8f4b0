"""One small model of every family, with inputs and targets to train it on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from tfmot_sws import PriorOptions

NUM_EXAMPLES = 32
# Under the default settings so small a network would end with all weights at zero, and
# many a test would compare nothing with nothing.
GENTLE: dict[str, Any] = {
    "num_components": 6,
    "zero_proportion": 0.5,
    "options": PriorOptions(assignment_width=0.3),
}


# What a random network has learned of random targets is little, and soon lost.
RANDOM_NETWORKS = pytest.mark.filterwarnings(
    "ignore:.* of what it had learned is lost:UserWarning"
)


@dataclasses.dataclass(frozen=True)
class Family:
    build: Callable[[], keras.Model]
    make_inputs: Callable[[np.random.Generator], Any]
    make_targets: Callable[[np.random.Generator], Any]


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Subclassed(keras.Model):
    """A model with layers of its own, dropout, and no `training` argument."""

    def __init__(self, units: int = 12, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, activation="relu")
        self.dropout = layers.Dropout(0.1)
        self.head = layers.Dense(3)

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.hidden.build(input_shape)
        self.head.build((*input_shape[:-1], self.units))
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self.head(self.dropout(self.hidden(inputs)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def _images(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal((NUM_EXAMPLES, 8, 8, 3)).astype("float32")


def _vectors(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal((NUM_EXAMPLES, 10)).astype("float32")


def _sequences(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal((NUM_EXAMPLES, 6, 4)).astype("float32")


def _tokens(generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 20, (NUM_EXAMPLES, 8)).astype("int32")


def _two_inputs(generator: np.random.Generator) -> dict[str, np.ndarray]:
    return {"image": _images(generator), "vector": _vectors(generator)}


def _targets(generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal((NUM_EXAMPLES, 3)).astype("float32")


def _two_targets(generator: np.random.Generator) -> dict[str, np.ndarray]:
    return {"first": _targets(generator), "second": _targets(generator)}


def sequential() -> keras.Model:
    return keras.Sequential(
        [keras.Input((10,)), layers.Dense(16, activation="relu"), layers.Dense(3)]
    )


def functional() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def nested() -> keras.Model:
    base = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 3), layers.BatchNormalization()], name="base"
    )
    frozen = layers.Conv2D(6, 1, trainable=False, name="frozen")
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(frozen(base(inputs)))
    return keras.Model(inputs, layers.Dense(3)(x))


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 10), "float32"))
    return model


def attention() -> keras.Model:
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 12)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 6)(x, x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def recurrent() -> keras.Model:
    return keras.Sequential([keras.Input((6, 4)), layers.LSTM(8), layers.Dense(3)])


def separable() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(8, 3)(inputs)
    x = layers.DepthwiseConv2D(3)(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def shared_layer() -> keras.Model:
    dense = layers.Dense(10, activation="relu")
    inputs = keras.Input((10,))
    return keras.Model(inputs, layers.Dense(3)(dense(dense(inputs))))


def multi_io() -> keras.Model:
    image, vector = keras.Input((8, 8, 3), name="image"), keras.Input((10,), name="vector")
    x = layers.Concatenate()([layers.Flatten()(layers.Conv2D(4, 3)(image)), vector])
    outputs = {name: layers.Dense(3, name=name)(x) for name in ("first", "second")}
    return keras.Model({"image": image, "vector": vector}, outputs)


FAMILIES = {
    "sequential": Family(sequential, _vectors, _targets),
    "functional": Family(functional, _images, _targets),
    "nested": Family(nested, _images, _targets),
    "subclassed": Family(subclassed, _vectors, _targets),
    "attention": Family(attention, _tokens, _targets),
    "recurrent": Family(recurrent, _sequences, _targets),
    "separable": Family(separable, _images, _targets),
    "shared_layer": Family(shared_layer, _vectors, _targets),
    "multi_io": Family(multi_io, _two_inputs, _two_targets),
}
