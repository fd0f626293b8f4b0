"""Counts zeros, values and bytes of a stripped model, in records that sum."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfmot_sws.coding.model_file import check_stripped
from tfmot_sws.coding.sizes import CodedSizes, sizes_as_storable
from tfmot_sws.gzip_size import gzip_size
from tfmot_sws.han_size import han_bits
from tfmot_sws.models.codebook import ClusteredTensor, is_clustered
from tfmot_sws.models.libraries import native, view_of
from tfmot_sws.models.paths import paths_of
from tfmot_sws.plain_text import cell, plain
from tfmot_sws.rendering import TEXT_WIDTH, as_html, as_text, width_of

# Columns that a narrow terminal omits, in this order.
_DROPPED_WHEN_NARROW = ("bits", "gzip", "entropy", "shape", "values")
_FLOAT_BITS = 32
# What makes each part of the file smaller.
_ADVICE = {
    "architecture": "save_compressed(weights_only=True) leaves it out",
    "codebooks": "fewer num_components, or scope='model', give fewer values",
    "indices": "a larger target_ratio, or complexity_weight, gives more zeros",
    "framing": "it is the table of tensors, which has its size",
}


@dataclasses.dataclass(frozen=True)
class TensorReport:
    """Zeros, values and bytes of one variable of the model.

    Args:
        path: its path in the model.
        shape: its shape.
        clustered: whether it has at most 256 distinct values, and so a codebook.
        zeros: number of entries that are exactly zero.
        distinct: number of distinct values.
        entropy_bits: order-0 entropy of the indices in bits per weight; 32 if the
            tensor is not clustered.
        dense_bytes: size as float32 (or its own integer type).
        entropy_bytes: indices at their entropy, plus the float32 codebook.
        han_bytes: size as Deep Compression counts; see `han_bits`.
        gzip_bytes: size of the dense values under gzip, level 9.
        coded_bytes: bytes of its indices, or of its values if it has no codebook, in the
            file that `save_compressed` writes.
    """

    path: str
    shape: tuple[int, ...]
    clustered: bool
    zeros: int
    distinct: int
    entropy_bits: float
    dense_bytes: int
    entropy_bytes: float
    han_bytes: float
    gzip_bytes: int
    coded_bytes: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))

    @property
    def is_dead(self) -> bool:
        """Whether it is a kernel or embedding that is zero throughout: nothing passes it."""
        return len(self.shape) > 1 and self.zeros == self.size > 0


@dataclasses.dataclass(frozen=True)
class CompressionReport:
    """The records of all variables, and their totals.

    Args:
        tensors: one record per variable, in the model's order.
        coded: sizes of the parts of the file that `save_compressed` writes. If the
            architecture cannot be stored, they are those with `weights_only=True`.
    """

    tensors: tuple[TensorReport, ...]
    coded: CodedSizes

    @property
    def num_weights(self) -> int:
        """Number of entries of all variables."""
        return sum(t.size for t in self.tensors)

    @property
    def num_zeros(self) -> int:
        """Number of entries that are exactly zero."""
        return sum(t.zeros for t in self.tensors)

    @property
    def zero_share(self) -> float:
        """Fraction of zeros among the entries of the clustered tensors, 0 to 1."""
        clustered = [t for t in self.tensors if t.clustered]
        return sum(t.zeros for t in clustered) / max(sum(t.size for t in clustered), 1)

    @property
    def dense_bytes(self) -> int:
        """Size of all variables uncompressed."""
        return sum(t.dense_bytes for t in self.tensors)

    @property
    def entropy_bytes(self) -> float:
        """Size at the order-0 entropy, codebooks and unshared variables included."""
        return sum(t.entropy_bytes for t in self.tensors)

    @property
    def han_bytes(self) -> float:
        """Size as Deep Compression counts it, unshared variables included."""
        return sum(t.han_bytes for t in self.tensors)

    @property
    def gzip_bytes(self) -> int:
        """Size of all variables under gzip, each compressed on its own."""
        return sum(t.gzip_bytes for t in self.tensors)

    @property
    def coded_bytes(self) -> int:
        """Size of the whole file that `save_compressed` writes."""
        return self.coded.total

    @property
    def coded_ratio(self) -> float:
        """Dense size divided by the size of the file that `save_compressed` writes."""
        return self.dense_bytes / max(self.coded_bytes, 1)

    @property
    def compression_ratio(self) -> float:
        """Dense size divided by the size as Deep Compression counts it."""
        return self.dense_bytes / max(self.han_bytes, 1e-9)

    @property
    def advice(self) -> str:
        """What the largest part of the file is, and what makes it smaller."""
        part = max(self.coded.parts, key=self.coded.parts.__getitem__)
        share = self.coded.parts[part] / max(self.coded_bytes, 1)
        return f"Largest: {part}, {share:.0%}; {self._advice_on(part)}."

    def _advice_on(self, part: str) -> str:
        if part != "rest":
            return _ADVICE[part]
        plain = [t for t in self.tensors if not t.clustered]
        largest = max(plain or self.tensors, key=lambda t: t.coded_bytes)
        if len(largest.shape) > 1:
            return f"{largest.path} is not shared, see weight_choices of the wrapped model"
        return (
            f"most of it is {largest.path} and the like, which are smallest with rounding=True "
            "in apply_soft_weight_sharing and without keep_statistics at the strip"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns totals and records as plain values, ready for JSON."""
        names = (
            "num_weights",
            "num_zeros",
            "zero_share",
            "dense_bytes",
            "entropy_bytes",
            "han_bytes",
            "gzip_bytes",
            "coded_bytes",
            "coded_ratio",
            "compression_ratio",
        )
        return {
            **{name: getattr(self, name) for name in names},
            "coded_parts": self.coded.parts,
            "advice": self.advice,
            "tensors": [dataclasses.asdict(t) for t in self.tensors],
        }

    def print(self, console: Console | None = None) -> None:
        """Prints the report as a table."""
        console = console or Console()
        console.print(self.table(console.width))

    def table(self, width: int | None = None) -> Table:
        """Returns the report as a rich table.

        Args:
            width: width of the terminal in characters. Columns that do not fit are
                omitted, the least useful first. `None`: show all columns.
        """
        table = _table(self, ())
        for count in range(1, len(_DROPPED_WHEN_NARROW) + 1):
            if width is None or width_of(table) <= width:
                break
            table = _table(self, _DROPPED_WHEN_NARROW[:count])
        return table

    def __repr__(self) -> str:
        """One line; `print` shows the table."""
        return (
            f"CompressionReport({len(self.tensors)} tensors, {self.dense_bytes:,} -> "
            f"{self.coded_bytes:,} bytes, {self.coded_ratio:.1f}x, {self.zero_share:.1%} zeros)"
        )

    def __str__(self) -> str:
        return as_text(self.table(TEXT_WIDTH))

    def _repr_html_(self) -> str:
        """The table, where the report is the last expression of a notebook's cell."""
        return as_html(self.table())


def compression_report(model: keras.Model) -> CompressionReport:
    """Counts zeros, values and bytes of every variable of a stripped model.

    Counts all variables, also those that are not shared: biases, normalisation, state. A
    variable that is not clustered counts with its full size.

    Args:
        model: a plain built model, such as `strip_soft_weight_sharing` returns.

    Returns:
        The records; print them with `print()`, read them with `to_dict()`.

    Raises:
        TypeError: the model is still wrapped, or is not a Keras model.
        ValueError: it is not built.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> compression_report(model).dense_bytes == 4 * (8 * 4 + 4)
        True
    """
    check_stripped(model)
    coded, view = sizes_as_storable(model), view_of(model)
    sizes = zip(view.variables, coded.variables, strict=True)
    coded_bytes = {id(variable): size for variable, (_, size) in sizes}
    paths = paths_of(model)
    records = (
        _tensor_report(v, paths[id(native(v))], coded_bytes[id(v)]) for v in view.weights
    )
    return CompressionReport(tuple(records), coded)


def _tensor_report(variable: keras.Variable, path: str, coded_bytes: int) -> TensorReport:
    values = ops.convert_to_numpy(variable)
    dense_bits = 8 * values.dtype.itemsize * values.size
    common: dict[str, Any] = {
        "path": path,
        "shape": tuple(variable.shape),
        "dense_bytes": dense_bits // 8,
        "gzip_bytes": gzip_size(values.tobytes()),
        "coded_bytes": coded_bytes,
    }
    if not is_clustered(values):
        return TensorReport(
            **common,
            clustered=False,
            zeros=int(values.size - np.count_nonzero(values)),
            distinct=int(np.unique(values).size),
            entropy_bits=float(_FLOAT_BITS),
            entropy_bytes=dense_bits / 8,
            han_bytes=dense_bits / 8,
        )
    tensor = ClusteredTensor.from_array(values)
    codebook_bits = _FLOAT_BITS * tensor.codebook.size
    entropy = tensor.entropy_bits_per_weight
    return TensorReport(
        **common,
        clustered=True,
        zeros=tensor.num_zeros,
        distinct=tensor.codebook.size,
        entropy_bits=entropy,
        entropy_bytes=(entropy * values.size + codebook_bits) / 8,
        han_bytes=min(han_bits(tensor), dense_bits) / 8,
    )


def _table(report: CompressionReport, dropped: tuple[str, ...]) -> Table:
    """Makes the table without the dropped columns."""
    parts = ", ".join(f"{name} {size:,}" for name, size in report.coded.parts.items())
    table = Table(
        title="Compression report",
        caption=Text(
            f"Bytes. Huffman: coded as in Deep Compression, {report.compression_ratio:.1f}x. "
            f"Coded: the .sws file ({parts}). {report.advice}" + _warning(report)
        ),
        box=SIMPLE,
        padding=(0, 1, 0, 0),
        show_footer=True,
    )
    footers = _total_cells(report)
    shown = [name for name in footers if name not in dropped]
    for name in shown:
        is_text = name in ("tensor", "shape")
        table.add_column(
            name, footers[name], justify="left" if is_text else "right", overflow="fold"
        )
    for record in report.tensors:
        cells = _cells(record)
        table.add_row(*(cells[name] for name in shown))
    return table


def _warning(report: CompressionReport) -> str:
    """Names the tensors through which nothing passes."""
    dead = [plain(tensor.path) for tensor in report.tensors if tensor.is_dead]
    if not dead:
        return ""
    return f"\nALL ZERO, so that nothing passes through: {', '.join(dead)}."


def _total_cells(report: CompressionReport) -> dict[str, str]:
    return {
        "tensor": "total",
        "shape": "",
        "zeros": f"{report.zero_share:.1%}",
        "values": "",
        "bits": f"{8 * report.coded_bytes / max(report.num_weights, 1):.3f}",
        "dense": f"{report.dense_bytes:,}",
        "gzip": f"{report.gzip_bytes:,}",
        "entropy": f"{report.entropy_bytes:,.0f}",
        "Huffman": f"{report.han_bytes:,.0f}",
        "coded": f"{report.coded_bytes:,}",
        "ratio": f"{report.coded_ratio:.1f}x",
    }


def _cells(t: TensorReport) -> dict[str, str | Text]:
    return {
        "tensor": cell(t.path),
        "shape": "x".join(map(str, t.shape)) or "scalar",
        "zeros": f"{t.zeros / max(t.size, 1):.1%}{' !' if t.is_dead else ''}",
        "values": f"{t.distinct:,}" if t.clustered else "-",
        "bits": f"{8 * t.coded_bytes / max(t.size, 1):.3f}",
        "dense": f"{t.dense_bytes:,}",
        "gzip": f"{t.gzip_bytes:,}",
        "entropy": f"{t.entropy_bytes:,.0f}",
        "Huffman": f"{t.han_bytes:,.0f}",
        "coded": f"{t.coded_bytes:,}",
        "ratio": f"{t.dense_bytes / max(t.coded_bytes, 1):.1f}x",
    }
