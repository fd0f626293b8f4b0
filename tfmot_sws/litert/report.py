"""Lists the sizes of the weight tensors in a .tflite file, for the terminal."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from tfmot_sws.gzip_size import gzip_size
from tfmot_sws.litert.file import TfliteTensor, stored_tensors
from tfmot_sws.litert.frugal_file import TfliteFile, tflite_bytes
from tfmot_sws.plain_text import cell


@dataclasses.dataclass(frozen=True)
class TfliteReport:
    """The weight tensors of a .tflite file, and its size.

    Args:
        tensors: one record per tensor, in the order of the file.
        file_bytes: size of the file.
        gzip_bytes: size of the file under gzip, level 9.
    """

    tensors: tuple[TfliteTensor, ...]
    file_bytes: int
    gzip_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Returns totals and records as plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def print(self, console: Console | None = None) -> None:
        """Shows the report as a table on the terminal."""
        (console or Console()).print(self.table())

    def table(self, caption: str = "") -> Table:
        """Returns the report as a rich table.

        Args:
            caption: what to say below it, after the size under gzip.
        """
        table = Table(title="Weights in the file", box=SIMPLE, show_footer=True)
        table.add_column("tensor", "file", overflow="fold")
        footers = {"shape": "", "type": "", "zeros": "", "values": ""}
        for name, footer in {**footers, "bytes": f"{self.file_bytes:,}"}.items():
            table.add_column(name, footer, justify="right")
        for t in self.tensors:
            shape = "x".join(map(str, t.shape)) or "scalar"
            zeros = f"{t.zeros / max(t.size, 1):.1%}"
            counts = f"{t.distinct:,}", f"{t.stored_bytes:,}"
            table.add_row(cell(t.name), shape, t.dtype, zeros, *counts)
        table.caption = f"{self.gzip_bytes:,} bytes under gzip{caption}"
        return table


def tflite_report(tflite: TfliteFile) -> TfliteReport:
    """Lists the weight tensors of a .tflite file.

    Args:
        tflite: a .tflite file, as a path or as its bytes.

    Returns:
        The records; print them with `print()`, read them with `to_dict()`.

    Raises:
        OSError: the path cannot be read.
        ValueError: the data is no readable .tflite file.
    """
    tflite = tflite_bytes(tflite)
    return TfliteReport(stored_tensors(tflite), len(tflite), gzip_size(tflite))
