"""What the commands of `tfmot-sws` do."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from tfmot_sws.coding.errors import CompressedFileError

_ERRORS = (CompressedFileError, ImportError, OSError, RuntimeError, TypeError, ValueError)


class UsageError(Exception):
    """The command was called in a way that cannot work."""


def run(arguments: argparse.Namespace) -> int:
    """Runs one command; errors become one line on stderr.

    Args:
        arguments: as `tfmot_sws_cli.parser` gives them.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage.
    """
    try:
        with warnings.catch_warnings():
            # Keras and TensorFlow warn of matters of their own.
            warnings.simplefilter("ignore")
            sys.path.insert(0, os.getcwd())
            for module in arguments.imports:
                importlib.import_module(module)
            result = _COMMANDS[arguments.command](arguments)
    except UsageError as error:
        return _fail(error, 2)
    except _ERRORS as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    if arguments.json:
        print(json.dumps(result, indent=2))  # noqa: T201
    return 0


def _fail(error: object, code: int) -> int:
    line = " ".join(str(error).split()) or type(error).__name__
    # Keras puts whole configurations into its messages.
    Console(stderr=True, soft_wrap=True).print(f"tfmot-sws: {line[:1000]}", markup=False)
    return code


def _report(arguments: argparse.Namespace) -> dict[str, Any]:
    path = pathlib.Path(arguments.file)
    _check_suffix(path, ".keras", ".sws", ".tflite")
    report: Any
    if path.suffix == ".tflite":
        from tfmot_sws.litert.report import tflite_report

        report = tflite_report(path.read_bytes())
    else:
        from tfmot_sws.report import compression_report

        model = _load(path)
        with _status(f"Counting {path.name}"):
            report = compression_report(model)
    if not arguments.json:
        report.print(Console())
    return report.to_dict()


def _compress(arguments: argparse.Namespace) -> dict[str, Any]:
    from tfmot_sws.coding.model_file import save_compressed

    source, target = _paths(arguments, (".keras",), ".sws")
    model = _load(source)
    with _status(f"Compressing {source.name}"):
        save_compressed(
            model,
            target,
            weights_only=arguments.weights_only,
            float16_rest=arguments.float16_rest,
        )
    return _written(arguments, source, target)


def _decompress(arguments: argparse.Namespace) -> dict[str, Any]:
    source, target = _paths(arguments, (".sws",), ".keras")
    model = _load(source)
    with _status(f"Writing {target.name}"), _replacing(target) as temporary:
        model.save(temporary)
    return _written(arguments, source, target)


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    from tfmot_sws.litert.export import FORMATS, convert_to_tflite

    source, target = _paths(arguments, (".keras", ".sws"), ".tflite")
    if arguments.format not in FORMATS:
        raise UsageError(f"--format {arguments.format}: expected one of {', '.join(FORMATS)}")
    model = _load(source)
    with _status(f"Converting {source.name}"), _replacing(target) as temporary:
        temporary.write_bytes(convert_to_tflite(model, arguments.format))
    return _written(arguments, source, target)


_COMMANDS = {
    "report": _report,
    "compress": _compress,
    "decompress": _decompress,
    "export": _export,
}


def _paths(
    arguments: argparse.Namespace, sources: tuple[str, ...], target_suffix: str
) -> tuple[pathlib.Path, pathlib.Path]:
    source, target = pathlib.Path(arguments.source), pathlib.Path(arguments.target)
    _check_suffix(source, *sources)
    _check_suffix(target, target_suffix)
    return source, target


def _check_suffix(path: pathlib.Path, *suffixes: str) -> None:
    if path.suffix not in suffixes:
        raise UsageError(f"'{path}': expected a file name that ends in {' or '.join(suffixes)}")


def _load(path: pathlib.Path) -> Any:
    """The model in a .keras or .sws file."""
    if not path.is_file():
        raise FileNotFoundError(f"'{path}': no such file")
    with _status(f"Reading {path.name}"):
        if path.suffix == ".sws":
            from tfmot_sws.coding.model_file import load_compressed

            return load_compressed(path)
        import keras

        return keras.models.load_model(path, compile=False)


@contextlib.contextmanager
def _replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, which takes the target's place once all went well."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tfmot-sws-") as folder:
        temporary = pathlib.Path(folder) / target.name
        yield temporary
        os.replace(temporary, target)


def _status(text: str) -> contextlib.AbstractContextManager[Any]:
    return Console(stderr=True).status(f"{text} ...")


def _written(
    arguments: argparse.Namespace, source: pathlib.Path, target: pathlib.Path
) -> dict[str, Any]:
    sizes = source.stat().st_size, target.stat().st_size
    if not arguments.json:
        Console(soft_wrap=True).print(
            f"{source} ({sizes[0]:,} bytes) -> {target} ({sizes[1]:,} bytes)", markup=False
        )
    return {
        "source": str(source),
        "target": str(target),
        "source_bytes": sizes[0],
        "target_bytes": sizes[1],
    }
