"""Exports from JAX and torch: runs the command line in another process, on TensorFlow.

TensorFlow's converter needs Keras on TensorFlow, and Keras has one backend per process. So
the model goes into a temporary .keras file, and `tfmot-sws export` converts that file in a
fresh interpreter. Between the two processes there are only file formats with an owner:
.keras, .npz, .tflite, and the JSON of the command line. `export` then compares the .tflite
file with the outputs of the model in this process.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, Final

import keras

from tfmot_sws.advice import warn
from tfmot_sws.litert.converter import ExportError
from tfmot_sws.litert.formats import Job
from tfmot_sws.litert.input_files import save_inputs
from tfmot_sws.models.rebuild import dicts_in

_MAIN_SCRIPT: Final = "__main__"
_ADVICE: Final = (
    "Classes and functions of your own must be in a module that can be imported, not in the "
    "main script, be registered with keras.saving.register_keras_serializable, and use "
    "keras.ops alone."
)


def make_on_tensorflow(job: Job, weights: str) -> bytes:
    """Runs `FORMATS[weights].make(job)` in a process where Keras runs on TensorFlow.

    Args:
        job: a plain model, with the data that came with it.
        weights: one of `FORMATS`.

    Returns:
        The bytes of a .tflite file.

    Raises:
        ExportError: the other process could not load or convert the model.

    Warns:
        SoftWeightSharingWarning: each warning of this package in the other process.
    """
    modules = _modules(job.model)
    if _MAIN_SCRIPT in modules:
        raise ExportError(
            f"'{job.model.name}' has parts that are defined in the main script. "
            f"LiteRT's converter needs another process, which does not have them. {_ADVICE}"
        )
    with tempfile.TemporaryDirectory(prefix="tfmot-sws-") as name:
        folder = pathlib.Path(name)
        target = folder / "model.tflite"
        imports = [f"--import={module}" for module in sorted(modules)]
        files = _save(job, folder)
        # This process judges the file, by the user's tolerance.
        options = [f"--format={weights}", "--tolerance=inf"]
        result = _run_export(*files, str(target), *options, *imports)
        for message in result.get("warnings", ()):
            warn(message)
        if "error" in result:
            raise ExportError(
                "LiteRT's converter needs Keras on TensorFlow, but another process with "
                f"KERAS_BACKEND=tensorflow could not export '{job.model.name}': "
                f"{result['error']}\n{_ADVICE}"
            )
        return target.read_bytes()


def _modules(model: keras.Model) -> set[str]:
    """Finds the modules of classes and functions in a model that are not part of Keras."""
    try:
        config = keras.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise ExportError(f"'{model.name}' cannot be saved: {error} {_ADVICE}") from error
    # Keras writes None for the main script.
    names = {
        part["module"] or _MAIN_SCRIPT
        for part in dicts_in(config)
        if {"class_name", "module"} <= set(part)
    }
    return {name for name in names if name.split(".")[0] not in ("keras", "builtins")}


def _save(job: Job, folder: pathlib.Path) -> list[str]:
    """Saves the model and its data; returns the arguments that name these files."""
    source = folder / "model.keras"
    job.model.save(source)
    arguments = [str(source)]
    for option, data in (
        ("representative-data", job.representative_data),
        ("sample", job.sample),
    ):
        if data is not None:
            save_inputs(folder / f"{option}.npz", data, job.model)
            arguments.append(f"--{option}={folder / option}.npz")
    return arguments


def _run_export(*arguments: str) -> dict[str, Any]:
    """Runs `tfmot-sws export` in a fresh interpreter; returns its JSON."""
    # The model is the user's own, from this process: its Lambda layers may run.
    command = ["-m", "tfmot_sws_cli", "export", "--json", "--trust", *arguments]
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            # This process holds the accelerator's memory, and the converter does not need it.
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        },
    )
    # Modules of the user may print; the JSON comes last.
    text = "{\n" + f"\n{done.stdout}".rpartition("\n{\n")[2]
    try:
        return dict(json.loads(text))
    except ValueError:
        printed = (done.stdout + done.stderr)[-2000:]
        return {"error": f"it ended with exit code {done.returncode}.\n{printed}"}
