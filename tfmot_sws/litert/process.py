"""Conversion in another process, for Keras on JAX or torch: the converter needs TensorFlow.

Keras has one backend a process, so a fresh Python with Keras on TensorFlow builds the model
again and converts it. What it made is then checked here, against this process' own outputs.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import warnings
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from tfmot_sws.litert.converter import ExportError
from tfmot_sws.litert.formats import FORMATS, Job, first_examples
from tfmot_sws.models.rebuild import finalize

_ORDER: Final = "order.pickle"
_ANSWER: Final = "answer.pickle"


def make_on_tensorflow(job: Job, weights: str) -> bytes:
    """What `FORMATS[weights].make(job)` gives where Keras runs on TensorFlow.

    Args:
        job: a plain model, with the data that came with it.
        weights: one of `FORMATS`.

    Raises:
        ExportError: the other process could not build or convert the model.
        Exception: whatever the format raises there.
    """
    with tempfile.TemporaryDirectory(prefix="tfmot-sws-") as name:
        folder = pathlib.Path(name)
        data = job.representative_data
        data = None if data is None else first_examples(data)
        order = (weights, _packed(job.model), data, _arrays(job.sample))
        (folder / _ORDER).write_bytes(pickle.dumps(order))
        printed = _run(folder)
        answer = folder / _ANSWER
        if not answer.exists():
            raise ExportError(
                f"'{job.model.name}' could not be converted in a process with Keras on "
                f"TensorFlow, which ended with:\n{printed[-2000:]}"
            )
        made, messages = pickle.loads(answer.read_bytes())
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=5)
    if isinstance(made, Exception):
        raise made
    return bytes(made)


def answer_order(name: str) -> None:
    """What the other process does: builds, converts, and leaves the result in the folder."""
    folder = pathlib.Path(name)
    made: bytes | Exception
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        order = pickle.loads((folder / _ORDER).read_bytes())
        weights, packed, representative_data, sample = order
        try:
            model = _unpacked(*packed)
            made = FORMATS[weights].make(Job(model, representative_data, sample))
        except (ExportError, ValueError, ImportError) as error:
            made = error
    messages = [str(w.message) for w in caught if w.category is UserWarning]
    temporary = folder / f"{_ANSWER}.part"
    temporary.write_bytes(pickle.dumps((made, messages)))
    os.replace(temporary, folder / _ANSWER)


def _modules(config: Any) -> set[str]:
    """Modules of the classes and functions in a serialised model that are not Keras' own."""
    if isinstance(config, list | tuple):
        return set().union(*(_modules(item) for item in config))
    if not isinstance(config, dict):
        return set()
    name = config.get("module") if "class_name" in config else None
    own = {name} if isinstance(name, str) and name.split(".")[0] != "keras" else set()
    return own.union(*(_modules(value) for value in config.values())) - {"builtins"}


def _packed(model: keras.Model) -> tuple[Any, list[NDArray[Any]]]:
    """Configuration and weights, as they are.

    A .keras file turns the tuples of shapes into lists, and the converter then takes a
    subclassed model to have that many inputs.
    """
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    return config, [keras.ops.convert_to_numpy(v) for v in model.weights]


def _unpacked(config: Any, values: list[NDArray[Any]]) -> keras.Model:
    try:
        for module in sorted(_modules(config)):
            importlib.import_module(module)
        # The user's own model, packed a moment ago.
        model = keras.saving.deserialize_keras_object(config, safe_mode=False)
        for variable, value in zip(model.weights, values, strict=True):
            variable.assign(value)
    except Exception as error:
        raise ExportError(
            "LiteRT's converter needs Keras on TensorFlow, but another process with "
            f"KERAS_BACKEND=tensorflow could not build the model: {error}\nClasses and "
            "functions of your own must be in a module that can be imported, not in the main "
            "script, be registered with keras.saving.register_keras_serializable, and use "
            "keras.ops alone."
        ) from error
    finalize(model)
    return model


def _arrays(nested: Any) -> Any:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else np.asarray(keras.ops.convert_to_numpy(leaf)),
        nested,
    )


def _run(folder: pathlib.Path) -> str:
    """Runs `answer_order` in a fresh interpreter; returns what it printed."""
    code = "import sys; from tfmot_sws.litert.process import answer_order as f; f(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            # The accelerator's memory is this process'; the converter needs none.
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        },
    )
    return done.stdout + done.stderr
