"""Shows the reports of two files side by side, with tensors matched by their paths."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from tfmot_sws.litert.report import TfliteReport
from tfmot_sws.plain_text import cell
from tfmot_sws.report import CompressionReport


@dataclasses.dataclass(frozen=True)
class Row:
    """What is compared of a tensor, or of a whole file.

    Args:
        num_bytes: its bytes in the file.
        zeros: share of its entries that are exactly zero, 0 to 1.
        distinct: number of its distinct values; `None` for a whole file.
    """

    num_bytes: int
    zeros: float
    distinct: int | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two files, tensor by tensor.

    Args:
        names: of the files.
        tensors: by path, what the first and the second file hold; `None` where one has no
            tensor of that path.
        totals: of the files.
    """

    names: tuple[str, str]
    tensors: dict[str, tuple[Row | None, Row | None]]
    totals: tuple[Row, Row]

    @property
    def ratio(self) -> float:
        """Size of the first file divided by that of the second."""
        return self.totals[0].num_bytes / max(self.totals[1].num_bytes, 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns totals and tensors as plain values, ready for JSON."""
        rows = [
            {"path": path, "first": _plain(pair[0]), "second": _plain(pair[1])}
            for path, pair in self.tensors.items()
        ]
        totals = [_plain(total) for total in self.totals]
        return {"files": self.names, "totals": totals, "ratio": self.ratio, "tensors": rows}

    def table(self) -> Table:
        """Returns the comparison as a rich table."""
        table = Table(
            title=Text(" | ").join(map(cell, self.names)),
            caption="Bytes, zeros and values of the first file | of the second.",
            box=SIMPLE,
            show_footer=True,
        )
        table.add_column("tensor", "total", overflow="fold")
        footers = (*_cells(self.totals), f"{self.ratio:.2f}x")
        for name, footer in zip(("bytes", "zeros", "values", "ratio"), footers, strict=True):
            table.add_column(name, footer, justify="right")
        for path, pair in self.tensors.items():
            table.add_row(cell(path), *_cells(pair), _ratio(pair))
        return table


def compare(names: tuple[str, str], first: Any, second: Any) -> Comparison:
    """Compares two reports.

    Args:
        names: of the files.
        first: a `CompressionReport`, or the `TfliteReport` of a .tflite file.
        second: likewise.
    """
    old, new = _rows(first), _rows(second)
    paths = [*old, *(path for path in new if path not in old)]
    tensors = {path: (old.get(path), new.get(path)) for path in paths}
    return Comparison(names, tensors, (_total(first), _total(second)))


def _rows(report: CompressionReport | TfliteReport) -> dict[str, Row]:
    if isinstance(report, TfliteReport):
        return {
            t.name: Row(t.stored_bytes, t.zeros / max(t.size, 1), t.distinct)
            for t in report.tensors
        }
    return {
        t.path: Row(t.coded_bytes, t.zeros / max(t.size, 1), t.distinct) for t in report.tensors
    }


def _total(report: CompressionReport | TfliteReport) -> Row:
    whole = report.file_bytes if isinstance(report, TfliteReport) else report.coded_bytes
    size = sum(t.size for t in report.tensors)
    zeros = sum(t.zeros for t in report.tensors) / max(size, 1)
    return Row(whole, zeros, None)


def _cells(pair: tuple[Row | None, Row | None]) -> tuple[str, str, str]:
    shown = [
        ("-",) * 3
        if row is None
        else (
            f"{row.num_bytes:,}",
            f"{row.zeros:.1%}",
            f"{row.distinct:,}" if row.distinct else "",
        )
        for row in pair
    ]
    sizes, zeros, values = (" | ".join(both) for both in zip(*shown, strict=True))
    return sizes, zeros, values.strip(" |")


def _ratio(pair: tuple[Row | None, Row | None]) -> str:
    first, second = pair
    if first is None or second is None:
        return "-"
    return f"{first.num_bytes / max(second.num_bytes, 1):.2f}x"


def _plain(row: Row | None) -> dict[str, Any] | None:
    return None if row is None else dataclasses.asdict(row)
