"""Starts the command `tfmot-sws`: reads the arguments, then has `tfmot_sws.cli` do the work.

It lies outside the package so that neither Keras nor TensorFlow is imported for `--help`,
and so that TensorFlow is imported in silence.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

_EPILOG = """\
examples:
  tfmot-sws report stripped.keras              what each tensor weighs, in five ways
  tfmot-sws compress stripped.keras model.sws  the file to store or to send
  tfmot-sws decompress model.sws model.keras   the identical model back
  tfmot-sws export model.sws model.tflite      for LiteRT, on a phone

exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
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
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parsed = parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_stderr():
        from tfmot_sws.cli import run

    return run(parsed)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Holds back what native code prints: TensorFlow logs before it reads its level."""
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


if __name__ == "__main__":
    sys.exit(main())
