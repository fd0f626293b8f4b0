"""Runs the commands of `tfmot-sws`; `tfmot_sws_cli` parses their arguments."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import re
import sys
import warnings
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from tfmot_sws.advice import SoftWeightSharingWarning, warn
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.keras_file import check_keras_file
from tfmot_sws.coding.model_file import load_compressed, save_compressed
from tfmot_sws.comparison import compare
from tfmot_sws.litert.export import export
from tfmot_sws.litert.input_files import load_inputs
from tfmot_sws.litert.report import tflite_report
from tfmot_sws.litert.verification import Verification
from tfmot_sws.models.codebook import get_codebooks
from tfmot_sws.models.files import load_model_file
from tfmot_sws.plain_text import cell, plain
from tfmot_sws.report import compression_report
from tfmot_sws.whole_file import replacing

# A line on the terminal ends here, because Keras puts whole configurations into messages.
_MAX_LINE: Final = 1000
_ERRORS = (CompressedFileError, ImportError, OSError, RuntimeError, TypeError, ValueError)


def run(arguments: argparse.Namespace) -> int:
    """Runs one command whose arguments have been checked.

    Each error and each warning becomes one line on stderr.

    With `--json`, stdout gets one JSON object in all cases: the result of the command or
    its "error", and the list of "warnings".

    Args:
        arguments: the result of `tfmot_sws_cli.parser`.

    Returns:
        The exit code: 0 done, 1 failed.
    """
    result: dict[str, Any] = {}
    error: BaseException | None = None
    with warnings.catch_warnings(record=True) as caught:
        # Users cannot act on warnings of Keras and TensorFlow about their own code.
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SoftWeightSharingWarning)
        try:
            result = _run_command(arguments)
        except (KeyboardInterrupt, *_ERRORS) as exception:
            error = exception
    messages = [str(warning.message) for warning in caught]
    for message in messages:
        _print_line(f"warning: {_with_options(message)}")
    if error is not None:
        result = {"error": _text(error)}
        _print_line(_with_options(result["error"]))
    if arguments.json:
        print(json.dumps({**result, "warnings": messages}, indent=2))  # noqa: T201
    return 0 if error is None else 1


def _run_command(arguments: argparse.Namespace) -> dict[str, Any]:
    sys.path.insert(0, os.getcwd())
    for module in arguments.imports:
        _import(module)
    return _COMMANDS[arguments.command](arguments)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        message = f"--import {module} failed: {type(error).__name__}: {error}"
        raise ImportError(message) from error


def _text(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) or type(error).__name__


def _with_options(text: str) -> str:
    """Names options of the command line in place of arguments of Python.

    JSON keeps Python's words: another process of this package reads them.
    """
    text = re.sub(r"(?<!\S)weights='(\w+)'", r"--format \1", text)
    text = re.sub(r"(?<!\S)(representative_data|sample)=[^\s,.]*", r"--\1 FILE.npz", text)
    text = re.sub(r"(?<!\S)(?:--)?representative_data\b", "--representative-data", text)
    return re.sub(r"(?<!\S)tolerance=(?=\W)", "--tolerance X", text)


def _print_line(text: str) -> None:
    line = " ".join(map(plain, text.split()))[:_MAX_LINE]
    Console(stderr=True, soft_wrap=True).print(Text(f"tfmot-sws: {line}"))


def _report(arguments: argparse.Namespace) -> dict[str, Any]:
    reports = [_report_of(pathlib.Path(file), arguments) for file in arguments.files]
    if len(reports) == 1:
        if not arguments.json:
            reports[0].print(Console())
        return dict(reports[0].to_dict())
    comparison = compare(tuple(arguments.files), *reports)
    if not arguments.json:
        Console().print(comparison.table())
    return comparison.to_dict()


def _report_of(path: pathlib.Path, arguments: argparse.Namespace) -> Any:
    if path.suffix == ".tflite":
        return tflite_report(path.read_bytes())
    model = _load(path, arguments)
    with _status(f"Counting {path.name}", arguments):
        report = compression_report(model)
    size = path.stat().st_size
    if path.suffix == ".sws" and size != report.coded_bytes:
        warn(
            f"{path.name} has {size:,} bytes. It was written with other options, such as "
            "--float16-rest, or by another version; the report shows the "
            f"{report.coded_bytes:,} bytes that its model takes as compress writes it now."
        )
    return report


def _compress(arguments: argparse.Namespace) -> dict[str, Any]:
    source, target = _paths(arguments)
    model = _load(source, arguments)
    if not any(tensor.indices.ndim > 1 for tensor in get_codebooks(model).values()):
        warn(
            f"No kernel in {source.name} is clustered, so the file is about as large as the "
            "weights under gzip. Train with apply_soft_weight_sharing first, strip, and "
            "compress what was stripped."
        )
    with _status(f"Compressing {source.name}", arguments):
        save_compressed(
            model,
            target,
            weights_only=arguments.weights_only,
            float16_rest=arguments.float16_rest,
        )
    return _written(arguments, source, target)


def _decompress(arguments: argparse.Namespace) -> dict[str, Any]:
    source, target = _paths(arguments)
    model = _load(source, arguments)
    with _status(f"Writing {target.name}", arguments), replacing(target) as temporary:
        model.save(temporary)
    return _written(arguments, source, target)


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    source, target = _paths(arguments)
    model = _load(source, arguments)
    data, sample = (
        None if path is None else load_inputs(path, model)
        for path in (arguments.representative_data, arguments.sample)
    )
    step = f"Converting {source.name} to {arguments.format} and comparing the outputs"
    with _status(step, arguments):
        verification = export(
            model,
            target,
            arguments.format,
            representative_data=data,
            sample=sample,
            tolerance=arguments.tolerance,
        )
    return {**_written(arguments, source, target), **_measures(arguments, verification)}


def _measures(arguments: argparse.Namespace, verification: Verification) -> dict[str, Any]:
    """Shows how far the file's outputs are from those of Keras."""
    if not arguments.json:
        Console(soft_wrap=True).print(verification.comparison, markup=False)
    return {
        "relative_error": verification.relative_error,
        "difference": verification.difference,
        "agreement": verification.agreement,
    }


_COMMANDS = {
    "report": _report,
    "compress": _compress,
    "decompress": _decompress,
    "export": _export,
}


def _paths(arguments: argparse.Namespace) -> tuple[pathlib.Path, pathlib.Path]:
    return pathlib.Path(arguments.source), pathlib.Path(arguments.target)


def _load(path: pathlib.Path, arguments: argparse.Namespace) -> Any:
    """Loads the model in a .keras, .h5 or .sws file.

    Args:
        path: the file.
        arguments: of the command. With `trust` a .keras or .h5 file may do what it likes:
            run code, in Lambda layers, and name any part of Keras.
    """
    trust = getattr(arguments, "trust", False)
    with _status(f"Reading {path.name}", arguments):
        if path.suffix == ".sws":
            return load_compressed(path)
        if not trust and path.suffix == ".keras":
            _check_keras_file(path)
        return load_model_file(path, trust)


def _check_keras_file(path: pathlib.Path) -> None:
    try:
        check_keras_file(path)
    except CompressedFileError as error:
        raise CompressedFileError(
            f"{error} With --trust a file of your own is loaded."
        ) from error


def _status(text: str, arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Shows on stderr what is being done, while it is; on a terminal only."""
    if arguments.quiet:
        return contextlib.nullcontext()
    return Console(stderr=True).status(cell(f"{text} ..."))


def _written(
    arguments: argparse.Namespace, source: pathlib.Path, target: pathlib.Path
) -> dict[str, Any]:
    sizes = source.stat().st_size, target.stat().st_size
    if not arguments.json:
        written = f"{source} ({sizes[0]:,} bytes) -> {target} ({sizes[1]:,} bytes)"
        Console(soft_wrap=True).print(Text(written))
    return {
        "source": str(source),
        "target": str(target),
        "source_bytes": sizes[0],
        "target_bytes": sizes[1],
    }
