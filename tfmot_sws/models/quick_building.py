"""Builds models of Keras 3 in less time, where their weights are replaced anyway.

Building takes Keras time in proportion to the model, but for two things. The initial value
of an orthogonal matrix of a few million weights takes many seconds. And a sequential model
that is made from its configuration is built anew with each of its layers, which takes a
minute where there are 400.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import keras
from keras import ops

_COSTLY: Final = keras.initializers.Orthogonal
# The words by which Keras finds it.
_WORDS: Final = ("Orthogonal", "OrthogonalInitializer", "orthogonal")


@contextlib.contextmanager
def quick_building() -> Iterator[dict[str, type[Any]]]:
    """Gives custom objects with which a configuration is built in less time.

    They serve while a model is built in this context, from a configuration whose parts
    `found_by_name` has edited. Orthogonal matrices become zeros. After the context the
    model is what the configuration says, initializers included.
    """
    made: list[Any] = []

    class Zeros(_COSTLY):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            return ops.zeros(shape, dtype)

    # A layer that copies another, as Bidirectional does, goes through its configuration.
    Zeros.__name__ = _COSTLY.__name__
    try:
        yield {**dict.fromkeys(_WORDS, Zeros), "Sequential": _SequentialAtOnce}
    finally:
        for initializer in made:
            initializer.__class__ = _COSTLY


def found_by_name(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a configuration; Keras looks for it in the custom objects first."""
    name = part.get("class_name")
    if name != "Sequential" and name not in _WORDS:
        return part
    return {key: value for key, value in part.items() if key != "registered_name"}


class _SequentialAtOnce:
    """Makes a sequential model of all its layers at once."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.Sequential:
        layers = [keras.saving.deserialize_keras_object(part) for part in config["layers"]]
        model = keras.Sequential(layers, name=config["name"])
        shape = config.get("build_input_shape")
        if shape and not model.built:
            model.build(shape)
        return model
