"""Coded sizes against other coders, and the time for a network of 25 million weights.

    python benchmarks/coding.py
    python benchmarks/coding.py --model stripped.keras --skip-large
    python benchmarks/coding.py --nncodec-python /path/to/venv/bin/python

Compared are the bytes of one index tensor: ours, its order-0 entropy (a bound for coders
that see no structure), xz and zopfli of the uint8 indices, and NNCodec, which may live in
an environment of its own (`pip install nncodec`). Results are printed, and written as JSON
and Markdown.
"""

import argparse
import dataclasses
import json
import lzma
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import tfmot_sws as sws
from tfmot_sws.coding.indices import IndexEncoder
from tfmot_sws.models.codebook import ClusteredTensor, entropy_bits

SHAPE = (512, 256)
ZEROS = (0.0, 0.5, 0.92, 0.99, 0.999)
NUM_VALUES = (2, 16, 256)
NUM_LARGE_VALUES, LARGE_ZEROS = 16, 0.92
SEED = 0
MISSING = "not available"

# Runs under the interpreter that has NNCodec: indices in, sizes and seconds out.
NNCODEC = """
import json, sys, time
import numpy as np
from nncodec import tensor
results = {}
for name, array in np.load(sys.argv[1]).items():
    start = time.perf_counter()
    data = tensor.encode(array.astype("int32"), {"verbose": False})
    middle = time.perf_counter()
    assert np.array_equal(tensor.decode(data), array), name
    results[name] = [len(data), middle - start, time.perf_counter() - middle]
print(json.dumps(results))
"""


@dataclasses.dataclass
class Row:
    """Bytes of one tensor under every coder; `None` where a coder is not available."""

    name: str
    entropy: float
    ours: int
    nncodec: int | None
    xz: int
    zopfli: int | None


def synthetic():
    """Index tensors by name: shares of zeros, numbers of values, with and without structure."""
    generator = np.random.default_rng(SEED)
    for structured in (False, True):
        for zeros in ZEROS:
            for num_values in NUM_VALUES:
                kind = "structured" if structured else "unstructured"
                indices = make_indices(generator, zeros, num_values, structured)
                yield f"{kind}, {np.mean(indices == 0):.1%} zeros, {num_values} values", indices


def make_indices(generator, zeros, num_values, structured):
    """Indices below `num_values`; 0 is the value zero. Structure is in rows and columns."""
    density = np.full(SHAPE, 1 - zeros)
    if structured:
        density *= generator.gamma(0.5, 2, (SHAPE[0], 1)) * generator.gamma(0.5, 2, SHAPE[1])
    share = np.exp(-np.arange(num_values - 1) / 8)
    values = 1 + generator.choice(num_values - 1, SHAPE, p=share / share.sum())
    return np.where(generator.random(SHAPE) < density, values, 0).astype(np.uint8)


def indices_of(model):
    """Index tensors of a stripped model by path; index 0 is the value zero."""
    found = {}
    for path, tensor in sws.get_codebooks(model).items():
        zero = np.searchsorted(tensor.codebook, 0.0)
        order = np.arange(tensor.codebook.size)
        first = np.where(order == zero, 0, order + (order < zero))
        if not np.any(tensor.codebook == 0):
            first = order + 1
        found[path] = first[tensor.indices].astype(np.uint16)
    return found


def compare(tensors, nncodec_python):
    """One row a tensor."""
    theirs = run_nncodec(tensors, nncodec_python)
    for name, indices in tensors.items():
        yield Row(
            name,
            entropy_bits(np.bincount(indices.reshape(-1))) * indices.size / 8,
            ours(indices),
            theirs[name][0] if theirs else None,
            len(lzma.compress(indices.astype(np.uint8).tobytes(), preset=9)),
            zopfli(indices.astype(np.uint8).tobytes()),
        )


def ours(indices):
    """Bytes of one index tensor, coded by itself."""
    encoder = IndexEncoder()
    encoder.add(indices, codebook=0, num_symbols=int(indices.max()) + 1)
    return len(encoder.finish()[0])


def zopfli(data):
    """Bytes under zopfli, or `None` where it is not installed."""
    try:
        import zopfli.zlib
    except ImportError:
        return None
    return len(zopfli.zlib.compress(data, numiterations=5))


def run_nncodec(tensors, python):
    """Bytes, seconds to encode and to decode by name; `None` where it is not installed."""
    probe = subprocess.run([python, "-c", "import nncodec"], check=False, capture_output=True)
    if probe.returncode:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "tensors.npz"
        np.savez(file, *tensors.values())
        done = subprocess.run(
            [python, "-c", NNCODEC, str(file)],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
        )
    results = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(tensors, (results[f"arr_{i}"] for i in range(len(tensors))), strict=True))


def large_model():
    """A ResNet-50 with unstructured zeros and 16 values in every kernel."""
    generator = np.random.default_rng(SEED)
    model = keras.applications.ResNet50(weights=None)
    book = generator.standard_normal(NUM_LARGE_VALUES - 1).astype(np.float32)
    share = np.exp(-np.arange(book.size) / 4)
    for variable in model.weights:
        if len(variable.shape) > 1:
            values = generator.choice(book, variable.shape, p=share / share.sum())
            values[generator.random(values.shape) < LARGE_ZEROS] = 0
            variable.assign(values)
    return model


def measure_large(nncodec_python):
    """Bytes and seconds for the large model: the whole file, and NNCodec on its indices."""
    model = large_model()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "large.sws"
        start = time.perf_counter()
        sws.save_compressed(model, file)
        written = time.perf_counter()
        loaded = sws.load_compressed(file)
        read = time.perf_counter()
        size = file.stat().st_size
    for first, second in zip(model.variables, loaded.variables, strict=True):
        assert np.array_equal(first, second)
    tensors = indices_of(model)
    theirs = run_nncodec(tensors, nncodec_python)
    totals = np.sum(list(theirs.values()), axis=0).tolist() if theirs else [None] * 3
    clustered = [ClusteredTensor(np.arange(257), i) for i in tensors.values()]
    return {
        "weights": model.count_params(),
        "entropy of the indices": sum(
            t.entropy_bits_per_weight * t.indices.size / 8 for t in clustered
        ),
        "ours, whole file": size,
        "ours, seconds to write": written - start,
        "ours, seconds to read": read - written,
        "NNCodec, indices": totals[0],
        "NNCodec, seconds to encode": totals[1],
        "NNCodec, seconds to decode": totals[2],
    }


def rows_table(title, rows):
    """Rows as headers and cells; ours is marked where another coder is smaller."""
    cells = []
    for row in rows:
        others = [size for size in (row.nncodec, row.xz, row.zopfli) if size is not None]
        mark = "" if row.ours <= min(others) else " (!)"
        sizes = (f"{row.entropy:,.0f}", f"{row.ours:,}{mark}")
        theirs = (MISSING if s is None else f"{s:,}" for s in (row.nncodec, row.xz, row.zopfli))
        cells.append([row.name, *sizes, *theirs])
    return title, ["tensor", "entropy", "ours", "NNCodec", "xz", "zopfli"], cells


def large_table(large):
    """The measurements of the large model as headers and cells."""
    cells = [
        [
            name,
            MISSING if value is None else f"{value:,.1f}" if "sec" in name else f"{value:,.0f}",
        ]
        for name, value in large.items()
    ]
    return f"ResNet-50, {LARGE_ZEROS:.0%} zeros, {NUM_LARGE_VALUES} values", ["", ""], cells


def show(console, title, headers, cells):
    """Prints one table."""
    table = Table(title=title)
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number else "left")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def markdown(title, headers, cells):
    """One table as Markdown."""
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *cells]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def main():
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, help="a stripped .keras model, too")
    parser.add_argument("--nncodec-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--skip-synthetic", action="store_true")
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("benchmarks/results")
    )
    arguments = parser.parse_args()
    console, results, tables = Console(), {}, []

    def add(name, values, table):
        results[name] = values
        tables.append(table)
        show(console, *table)

    if not arguments.skip_synthetic:
        rows = list(compare(dict(synthetic()), arguments.nncodec_python))
        title = f"Synthetic indices, shape {SHAPE}, bytes"
        add("synthetic", [dataclasses.asdict(row) for row in rows], rows_table(title, rows))
    if arguments.model:
        model = keras.models.load_model(arguments.model, compile=False)
        sizes = sws.coded_sizes(model)
        rows = list(compare(indices_of(model), arguments.nncodec_python))
        parts = ", ".join(f"{part} {size:,}" for part, size in sizes.parts.items())
        title = f"{arguments.model.name}: {sizes.total:,} bytes ({parts}); tensors one by one"
        values = {"file": sizes.to_dict(), "rows": [dataclasses.asdict(row) for row in rows]}
        add("model", values, rows_table(title, rows))
    if not arguments.skip_large:
        large = measure_large(arguments.nncodec_python)
        add("large", large, large_table(large))
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "coding.json").write_text(json.dumps(results, indent=2))
    (arguments.output / "coding.md").write_text("\n".join(markdown(*t) for t in tables))
    console.print(f"Written to {arguments.output}/coding.json and coding.md")


if __name__ == "__main__":
    main()
