"""Starts the command `tfmot-sws`: parses the arguments, then calls `tfmot_sws.cli`.

The module lies beside the package, because importing any part of `tfmot_sws` imports Keras
and TensorFlow. That takes seconds and prints. Here the arguments are parsed and checked before,
so `--help` and a wrong name are immediate, and stderr is closed during the import, so an
error is one line.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

# Those of tfmot_sws.litert.formats.FORMATS, which cannot be imported here.
FORMATS = (
    "float32",
    "float16",
    "int8_codebook",
    "int4_codebook",
    "sparse",
    "smallest",
    "int8",
    "tflm",
)
_MODELS = (".keras", ".h5")

_EPILOG = """\
examples:
  tfmot-sws report stripped.keras              the size of each tensor, counted in five ways
  tfmot-sws report dense.keras stripped.keras  two files side by side
  tfmot-sws compress stripped.keras model.sws  the file to store or to send
  tfmot-sws decompress model.sws model.keras   the identical model back
  tfmot-sws export model.sws model.tflite      for LiteRT, on a phone

  tfmot-sws export model.sws model.tflite --format int8 --representative-data train.npz

.keras and .h5 files of tf_keras (Keras 2) are read by tf_keras, all others by Keras 3.
exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--json", action="store_true", help="print the result, or the error, as JSON"
    )
    common.add_argument(
        "--quiet", action="store_true", help="do not show on the terminal what is being done"
    )
    common.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module first that registers classes of your own (repeatable)",
    )
    top = argparse.ArgumentParser(
        prog="tfmot-sws",
        description="Compress, inspect and export models that share few weight values.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    report = add("report", "Show zeros, values and bytes of every tensor of a file.")
    report.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="a .keras, .h5, .sws or .tflite file; two are shown side by side",
    )
    compress = add("compress", "Write a stripped model as a compressed .sws file.")
    compress.add_argument("source", metavar="MODEL", help="a stripped model, .keras or .h5")
    compress.add_argument("target", metavar="OUT.sws", help="the file to write")
    compress.add_argument(
        "--weights-only", action="store_true", help="leave the architecture out"
    )
    compress.add_argument(
        "--float16-rest",
        action="store_true",
        help="store variables without codebook as float16 (not lossless)",
    )
    decompress = add("decompress", "Write a compressed .sws file as a .keras model.")
    decompress.add_argument("source", metavar="IN.sws", help="a compressed model")
    decompress.add_argument("target", metavar="OUT.keras", help="the file to write")
    export = add("export", "Write a stripped model as a .tflite file, checked to agree.")
    export.add_argument("source", metavar="IN", help="a .keras, .h5 or .sws file")
    export.add_argument("target", metavar="OUT.tflite", help="the file to write")
    export.add_argument(
        "--format",
        default="float32",
        help=f"how weights are stored: {', '.join(FORMATS)} (default: float32)",
    )
    export.add_argument(
        "--representative-data",
        metavar="FILE.npz",
        help="typical inputs, which --format int8 needs: one array, or one for each input, "
        "named by the names of the inputs, or arr_0, arr_1, ... in their order",
    )
    export.add_argument(
        "--sample",
        metavar="FILE.npz",
        help="inputs for the check that outputs agree (default: the representative data, or "
        "random inputs)",
    )
    export.add_argument(
        "--tolerance",
        metavar="X",
        type=_positive,
        help="how much outputs may differ (default: the format's own; inf: any file that runs)",
    )
    for command in (report, compress, export):
        command.add_argument(
            "--trust",
            action="store_true",
            help="load a .keras or .h5 file of your own whatever it holds: code in Lambda "
            "layers, and parts of Keras that a file of a stranger may not name",
        )
    return top


def problem(arguments: argparse.Namespace) -> tuple[int, str] | None:
    """Finds what is wrong with the arguments, as far as names tell.

    Returns:
        The exit code, 2 for wrong usage and 1 for a missing file, and one line; `None` if
        nothing is wrong.
    """
    return next(_problems(arguments), None)


def _problems(arguments: argparse.Namespace) -> Iterator[tuple[int, str]]:
    sources, target = {
        "report": ((*_MODELS, ".sws", ".tflite"), None),
        "compress": (_MODELS, ".sws"),
        "decompress": ((".sws",), ".keras"),
        "export": ((*_MODELS, ".sws"), ".tflite"),
    }[arguments.command]
    named = arguments.files if target is None else [arguments.source]
    if len(named) > 2:
        yield 2, f"report: expected one or two files; received {len(named)}"
    read = [pathlib.Path(name) for name in named]
    for source in read:
        yield from _wrong_suffix(source, *sources)
    if target is not None:
        yield from _wrong_suffix(pathlib.Path(arguments.target), target)
    if arguments.command == "export" and arguments.format not in FORMATS:
        yield 2, f"--format {arguments.format}: expected one of {', '.join(FORMATS)}"
    data = getattr(arguments, "representative_data", None), getattr(arguments, "sample", None)
    for path in (*read, *(pathlib.Path(path) for path in data if path is not None)):
        if not path.is_file():
            yield 1, f"'{path}': no such file"
    folder = pathlib.Path(getattr(arguments, "target", read[0])).parent
    if not folder.is_dir():
        yield 1, f"'{folder}': no such folder"


def _wrong_suffix(path: pathlib.Path, *suffixes: str) -> Iterator[tuple[int, str]]:
    if path.suffix not in suffixes:
        yield 2, f"'{path}': expected a file name that ends in {' or '.join(suffixes)}"


def _tell(text: str, as_json: bool) -> None:
    """Reports a problem as `tfmot_sws.cli` reports errors."""
    sys.stderr.write(f"tfmot-sws: {text}\n")
    if as_json:
        sys.stdout.write(json.dumps({"error": text, "warnings": []}, indent=2) + "\n")


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0, or inf")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parsed = parser().parse_args(arguments)
    found = problem(parsed)
    if found is not None:
        _tell(found[1], parsed.json)
        return found[0]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow's native code logs before it reads that level, so stderr is closed meanwhile.
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        from tfmot_sws.cli import run
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    return run(parsed)


if __name__ == "__main__":
    sys.exit(main())
