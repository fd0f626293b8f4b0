"""Runs TensorFlow's converter to .tflite: quietly, and with a batch of 1 where it needs one.

The converter prints hundreds of lines, from Python and from native code. `quietly` holds
them back, and an error shows the last ones. It is the package's only silencer. The command
line needs one more, in `tfmot_sws_cli`, because it silences the import of this package.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import keras
import numpy as np

from tfmot_sws.models.libraries import library_of, walk

Configure = Callable[[Any], None]
# Parts of the names of operations by which the converter's words tell a model of strings.
_STRING_OPERATIONS: Final = ("String", "StaticRegex", "LookupTable", "HashTable")


class ExportError(RuntimeError):
    """The model cannot be exported, or its file does not compute the same outputs."""


def convert(model: keras.Model, configure: Configure = lambda _: None) -> bytes:
    """Converts a model; one that needs a fixed batch gets a batch of 1.

    Args:
        model: a built Keras model.
        configure: sets options of the `tf.lite.TFLiteConverter`.

    Returns:
        The bytes of a .tflite file.

    Raises:
        ExportError: the converter failed; the message has the end of its output.
    """
    model = _with_inputs(model)
    try:
        return _run(model, configure)
    except ExportError:
        if not getattr(model, "inputs", None):
            raise
        return _run(with_batch_of_one(model), configure)


def with_batch_of_one(model: keras.Model) -> keras.Model:
    """Puts a model behind inputs whose batch is 1; returns it as it is if it has no inputs."""
    if not getattr(model, "inputs", None):
        return model

    library = library_of(model)

    def fix(tensor: Any) -> Any:
        shape = tuple(tensor.shape[1:])
        return library.input(shape, batch_size=1, dtype=tensor.dtype, name=tensor.name)

    inputs = keras.tree.map_structure(fix, input_structure(model))
    return library.model(inputs, model(as_taken(inputs, model)), name=model.name)


def with_input_names_of(model: keras.Model, original: keras.Model) -> keras.Model:
    """Puts a copy behind inputs that are called as the original's, by which files are fed.

    Inputs that nobody has named get other names in a copy.
    """
    before, after = (getattr(m, "inputs", None) or [] for m in (original, model))
    if len(before) < 2 or [t.name for t in before] == [t.name for t in after]:
        return model
    library = library_of(model)
    inputs = keras.tree.map_structure(
        lambda t: library.input(tuple(t.shape[1:]), dtype=t.dtype, name=t.name),
        input_structure(original),
    )
    return library.model(inputs, model(inputs), name=model.name)


def input_structure(model: keras.Model) -> Any:
    """Returns the model's symbolic inputs as it takes them: a tensor, list or dict."""
    return model.inputs[0] if len(model.inputs) == 1 else model.input


def as_taken(inputs: Any, model: keras.Model) -> Any:
    """Returns an only input in a list if the model takes it so; all others unchanged.

    Models that Keras 3 reads from an .h5 file of Keras 2 do, and Keras warns of an array that
    is in no list.
    """
    # A Sequential model that nothing called has no `input`.
    structure = getattr(model, "input", None)
    if not isinstance(structure, list) or len(structure) != 1:
        return inputs
    return keras.tree.flatten(inputs)


def _with_inputs(model: keras.Model) -> keras.Model:
    """Puts a model behind symbolic inputs where the converter needs others than it has.

    It takes dict inputs in alphabetical order only.

    A .keras file stores the shapes of the inputs as JSON, which turns their tuples into
    lists. TensorFlow's converter takes each number in a list for the shape of one input, and
    fails. All other models are returned as they are.
    """
    if not isinstance(model, keras.Model):
        return model
    if getattr(model, "inputs", None):
        return _with_sorted_inputs(model)
    shapes = (model.get_build_config() or {}).get("input_shape")
    if not _has_list_as_shape(shapes):
        return model
    inputs = _symbolic(shapes, model.input_dtype)
    return keras.Model(inputs, model(inputs), name=model.name)


def _with_sorted_inputs(model: keras.Model) -> keras.Model:
    structure = input_structure(model)
    if not isinstance(structure, dict) or list(structure) == sorted(structure):
        return model
    inputs = {
        key: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for key, tensor in sorted(structure.items())
    }
    return keras.Model(inputs, model(inputs), name=model.name)


def with_inputs_of(model: keras.Model, sample: Any) -> keras.Model:
    """Puts a subclassed model that takes no floats behind inputs of the sample's dtypes.

    Such a model does not know what it was called on, and the converter takes floats for it.

    Raises:
        ValueError: the model looks up embeddings, and there is no sample.
    """
    if not isinstance(model, keras.Model) or getattr(model, "inputs", None):
        return model
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(sample)]
    if sample is None and any(isinstance(x, keras.layers.Embedding) for x in walk(model)):
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed and does not say "
            "what its inputs are. Pass sample=, a few inputs as for model.predict."
        )
    if sample is None or all(np.issubdtype(leaf.dtype, np.floating) for leaf in leaves):
        return model
    # "int64", of which NumPy makes integers, is slower on a phone and no better.
    dtypes = ["int32" if leaf.dtype.kind in "iu" else str(leaf.dtype) for leaf in leaves]
    shapes = (model.get_build_config() or {}).get("input_shape")
    if len(leaves) == 1 and _is_shape(shapes):
        inputs = _symbolic(shapes, dtypes[0])
    else:
        tensors = [
            keras.Input(leaf.shape[1:], dtype=dtype)
            for leaf, dtype in zip(leaves, dtypes, strict=True)
        ]
        inputs = keras.tree.pack_sequence_as(sample, tensors)
    return keras.Model(inputs, model(inputs), name=model.name)


def _has_list_as_shape(shapes: Any) -> bool:
    if _is_shape(shapes):
        return isinstance(shapes, list)
    parts = shapes.values() if isinstance(shapes, dict) else shapes or ()
    return any(map(_has_list_as_shape, parts))


def _is_shape(shapes: Any) -> bool:
    is_sequence = isinstance(shapes, list | tuple)
    return is_sequence and all(size is None or isinstance(size, int) for size in shapes)


def _symbolic(shapes: Any, dtype: str, name: str | None = None) -> Any:
    """Makes inputs with a free batch from nested shapes; in a dict, the keys name them."""
    if isinstance(shapes, dict):
        return {key: _symbolic(shape, dtype, key) for key, shape in shapes.items()}
    if _is_shape(shapes):
        return keras.Input(tuple(shapes[1:]), dtype=dtype, name=name)
    return [_symbolic(shape, dtype) for shape in shapes]


def _run(model: keras.Model, configure: Configure) -> bytes:
    import tensorflow as tf

    with quietly() as printed:
        try:
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            configure(converter)
            return bytes(converter.convert())
        except Exception as error:
            failure = error
    way_out = _way_out(str(failure))
    # Of a model of strings the converter names each operation, in hundreds of lines.
    words = (
        f"{way_out} It says: {str(failure)[:200]} ..."
        if way_out
        else f"It says: {failure}\n{''.join(printed)[-2000:]}"
    )
    raise ExportError(f"LiteRT's converter could not convert '{model.name}'. {words}") from (
        None if way_out else failure
    )


def _way_out(failure: str) -> str:
    """Words for what the converter says in a thousand words of its own."""
    if not any(operation in failure for operation in _STRING_OPERATIONS):
        return ""
    return (
        "LiteRT has no look-up tables and no operations on strings. Make a model of the layers "
        "behind TextVectorization or a lookup layer, such as "
        'keras.Sequential([keras.Input((LENGTH,), dtype="int64"), *model.layers[1:]]), or '
        "layers[2:] of a Functional model, whose first is its Input; export that, and look "
        "words up in the app."
    )


@contextlib.contextmanager
def quietly() -> Iterator[list[str]]:
    """Holds back warnings and all output of Python and of native code.

    Returns:
        A context that gives a list. After the block, the list holds the output.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    printed: list[str] = []
    kept = [os.dup(1), os.dup(2)]
    held = io.StringIO()
    # The converter catches every exception, so a warning turned into an error would make it
    # fail without a reason.
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            with (
                contextlib.redirect_stdout(held),
                contextlib.redirect_stderr(held),
                _logged_to(held),
            ):
                yield printed
        finally:
            for target, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, target)
                os.close(saved)
            sink.seek(0)
            printed += [held.getvalue(), sink.read().decode(errors="replace")]


@contextlib.contextmanager
def _logged_to(stream: io.StringIO) -> Iterator[None]:
    """Has TensorFlow log to a stream.

    In a notebook it logs what it does, to the stdout that there was when it was imported.
    """
    logger = logging.getLogger("tensorflow")
    handlers, logger.handlers = logger.handlers, [logging.StreamHandler(stream)]
    try:
        yield
    finally:
        logger.handlers = handlers
