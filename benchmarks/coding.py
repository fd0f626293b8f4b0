"""Coded sizes against other coders and against before, and the time for 25 million weights.

    python -m benchmarks.coding
    python -m benchmarks.coding --model stripped.keras --skip-large
    python -m benchmarks.coding --skip-synthetic --skip-large --pretrained resnet-8.keras
    python -m benchmarks.coding --nncodec-python .venv-nncodec/bin/python

Compared are the bytes of one index tensor: ours, its order-0 entropy (a bound for coders
that see no structure), xz and zopfli of the uint8 indices, and NNCodec, which may live in
an environment of its own (`pip install nncodec`).
"""

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

import tfmot_sws as sws
from benchmarks import common, file_parts
from tfmot_sws.coding.arrays import read_arrays
from tfmot_sws.coding.indices import IndexEncoder
from tfmot_sws.models.codebook import ClusteredTensor
from tfmot_sws.models.entropy import entropy_bits

SHAPE = (512, 256)
ZEROS = (0.0, 0.5, 0.92, 0.99, 0.999)
NUM_VALUES = (2, 16, 256)
NUM_LARGE_VALUES, LARGE_ZEROS = 16, 0.92
SEED = 0
MISSING = "not available"
FILE_PARTS = ("architecture", "codebooks", "indices", "rest", "framing")

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
        arrays = read_arrays(file)
        decoded = time.perf_counter()
        size = file.stat().st_size
    for first, second, third in zip(model.variables, loaded.variables, arrays, strict=True):
        assert np.array_equal(first, second)
        assert np.array_equal(first, third)
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
        "ours, seconds to read a Keras model": read - written,
        "ours, seconds to read the arrays": decoded - read,
        "NNCodec, indices": totals[0],
        "NNCodec, seconds to encode": totals[1],
        "NNCodec, seconds to decode": totals[2],
    }


def to_markdown(record):
    """Command, environment, and a table for each part that was measured."""
    blocks = [common.to_header(record)]
    for part, title, to_cells in (
        ("synthetic", f"Synthetic indices, shape {SHAPE}, bytes", _row_cells),
        ("parts", "Parts of a file, before and after, bytes", file_parts.to_cells),
        ("model", "A stripped model, tensors one by one, bytes", _model_cells),
        (
            "large",
            f"ResNet-50, {LARGE_ZEROS:.0%} zeros, {NUM_LARGE_VALUES} values",
            _large_cells,
        ),
    ):
        if part in record:
            headers, cells = to_cells(record[part])
            align = ["left"] + ["right"] * (len(headers) - 1)
            table = common.to_table(headers, cells, align)
            blocks += [f"## {title}", common.to_section(part, table)]
    return common.join(*blocks)


def _row_cells(rows):
    """Headers and cells; ours is marked where another coder is smaller."""
    cells = []
    for row in rows:
        others = [row[coder] for coder in ("nncodec", "xz", "zopfli")]
        mark = "" if row["ours"] <= min(s for s in others if s is not None) else " (!)"
        sizes = (f"{row['entropy']:,.0f}", f"{row['ours']:,}{mark}")
        cells.append([row["name"], *sizes, *map(_size_cell, others)])
    return ["tensor", "entropy", "ours", "NNCodec", "xz", "zopfli"], cells


def _model_cells(record):
    """As `_row_cells`, with the parts of the whole file beneath."""
    headers, cells = _row_cells(record["rows"])
    parts = (f"file: {part}" for part in (*FILE_PARTS, "total"))
    sizes = (record["file"][part] for part in (*FILE_PARTS, "total"))
    return headers, cells + [[p, "", f"{s:,}"] for p, s in zip(parts, sizes, strict=True)]


def _large_cells(large):
    """Headers and cells: a measurement a row."""
    forms = {name: ",.1f" if "seconds" in name else ",.0f" for name in large}
    return ["", ""], [[name, _size_cell(v, forms[name])] for name, v in large.items()]


def _size_cell(value, form=","):
    return MISSING if value is None else f"{value:{form}}"


def main():
    """Measures, prints, writes."""
    args = _parse_arguments()
    record = common.start_record("coding", args)
    for part in args.parts:
        record[part] = MEASURES[part](args)
    text = to_markdown(record)
    print(text)
    common.write("coding", args, record, text)


def measure_synthetic(args):
    """A row for each made tensor."""
    return [*map(dataclasses.asdict, compare(dict(synthetic()), args.nncodec_python))]


def measure_model(args):
    """Sizes of the parts of the file, and a row for each tensor of the model."""
    model = keras.models.load_model(args.model, compile=False)
    rows = compare(indices_of(model), args.nncodec_python)
    return {
        "file": sws.coded_sizes(model).to_dict(),
        "rows": [*map(dataclasses.asdict, rows)],
    }


MEASURES = {
    "synthetic": measure_synthetic,
    "parts": lambda args: file_parts.measure(args.pretrained, SEED),
    "model": measure_model,
    "large": lambda args: measure_large(args.nncodec_python),
}


def _parse_arguments():
    parser = common.make_parser(__doc__)
    parser.add_argument("--model", type=pathlib.Path, help="a stripped .keras model, too")
    parser.add_argument(
        "--pretrained", type=pathlib.Path, nargs="*", default=[], help="dense .keras models"
    )
    parser.add_argument("--nncodec-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--skip-synthetic", action="store_true")
    parser.add_argument("--skip-large", action="store_true")
    args = parser.parse_args()
    wanted = {
        "synthetic": not args.skip_synthetic,
        "parts": True,
        "model": args.model is not None,
        "large": not args.skip_large,
    }
    args.parts = [part for part in MEASURES if wanted[part]]
    args.run = args.run or common.name_run(args.parts)
    return args


if __name__ == "__main__":
    main()
