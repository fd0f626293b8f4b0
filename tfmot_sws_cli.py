"""Starts the command `tfmot-sws`: parses the arguments, then calls `tfmot_sws.cli`.

The module lies beside the package, because importing any part of `tfmot_sws` imports Keras
and TensorFlow. That takes seconds and prints. Here the arguments are parsed before, so
`--help` is immediate, and stderr is closed during the import, so an error is one line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

_EPILOG = """\
examples:
  tfmot-sws report stripped.keras              the size of each tensor, counted in five ways
  tfmot-sws compress stripped.keras model.sws  the file to store or to send
  tfmot-sws decompress model.sws model.keras   the identical model back
  tfmot-sws export model.sws model.tflite      for LiteRT, on a phone

exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--json", action="store_true", help="print the result, or the error, as JSON"
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
    report.add_argument("file", metavar="FILE", help="a .keras, .sws or .tflite file")
    compress = add("compress", "Write a stripped .keras model as a compressed .sws file.")
    compress.add_argument("source", metavar="MODEL.keras", help="a stripped model")
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
    export.add_argument("source", metavar="IN", help="a .keras or .sws file")
    export.add_argument("target", metavar="OUT.tflite", help="the file to write")
    export.add_argument(
        "--format", default="float32", help="how weights are stored (default: float32)"
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
            help="load a .keras file of your own whatever it holds: code in Lambda layers, and "
            "parts of Keras that a file of a stranger may not name",
        )
    return top


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0, or inf")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parsed = parser().parse_args(arguments)
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
