"""TensorFlow's converter to .tflite: quiet, and with a batch of 1 where it needs one."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfmot_sws.models.libraries import library_of

Configure = Callable[[Any], None]


class ExportError(RuntimeError):
    """The model could not be exported, or its export does not compute the same."""


def convert(model: keras.Model, configure: Configure = lambda _: None) -> bytes:
    """Converts a model; one that needs a fixed batch gets a batch of 1.

    Args:
        model: a built Keras model.
        configure: sets options of the `tf.lite.TFLiteConverter`.

    Raises:
        ExportError: the converter failed, with what it printed.
    """
    try:
        return _run(model, configure)
    except ExportError:
        if not getattr(model, "inputs", None):
            raise
        return _run(with_batch_of_one(model), configure)


def with_batch_of_one(model: keras.Model) -> keras.Model:
    """The same model behind inputs whose batch is 1; without known inputs, the model."""
    if not getattr(model, "inputs", None):
        return model

    library = library_of(model)

    def fix(tensor: Any) -> Any:
        shape = tuple(tensor.shape[1:])
        return library.input(shape, batch_size=1, dtype=tensor.dtype, name=tensor.name)

    inputs = keras.tree.map_structure(fix, input_structure(model))
    return library.model(inputs, model(inputs), name=model.name)


def input_structure(model: keras.Model) -> Any:
    """The model's symbolic inputs as it takes them: a tensor, list or dict."""
    return model.inputs[0] if len(model.inputs) == 1 else model.input


def _run(model: keras.Model, configure: Configure) -> bytes:
    import tensorflow as tf

    with quietly() as printed:
        try:
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            configure(converter)
            return bytes(converter.convert())
        except Exception as error:
            failure = error
    raise ExportError(
        f"LiteRT's converter could not convert '{model.name}': {failure}\n"
        f"{''.join(printed)[-2000:]}"
    ) from failure


@contextlib.contextmanager
def quietly() -> Iterator[list[str]]:
    """Holds back warnings and what Python and native code print; gives what was printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    printed: list[str] = []
    kept = [os.dup(1), os.dup(2)]
    held = io.StringIO()
    # The converter swallows exceptions, a warning made an error among them.
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            with contextlib.redirect_stdout(held), contextlib.redirect_stderr(held):
                yield printed
        finally:
            for target, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, target)
                os.close(saved)
            sink.seek(0)
            printed += [held.getvalue(), sink.read().decode(errors="replace")]
