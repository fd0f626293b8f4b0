"""How small, at what error: soft weight-sharing against what one would do instead.

    python -m benchmarks.compression --net lenet-300-100 --data mnist.npz --seeds 0 1 2

For every seed the same pretrained network goes through soft weight-sharing with the
library's defaults, through tfmot's pruning and clustering (tf_keras, stripped, .tflite,
gzip), and through NNCodec (ISO/IEC 15938-17), which also codes our stripped weights. The
peers get settings to choose from: of those whose validation error is no higher than ours,
the smallest counts; if there is none, the most accurate. The 10,000 test images give the
final figures only.

NNCodec needs an older NumPy, so it lives in an environment of its own:

    python -m venv .venv-nncodec && .venv-nncodec/bin/pip install nncodec
    python -m benchmarks.compression ... --nncodec .venv-nncodec/bin/python
"""

import functools
import gzip
import json
import pathlib
import subprocess
import tempfile
import time

import keras
import numpy as np

import tfmot_sws as sws
from benchmarks import common
from examples import lenet_mnist as lenet

# Run by its path, under an interpreter that has NNCodec and nothing of this package.
NNCODEC_SCRIPT = pathlib.Path(__file__).with_name("nncodec_pipeline.py")
NNCODEC_QPS = range(-38, -5, 2)


def compress(dense, folder, splits, args):
    """Soft weight-sharing with the defaults; its record and the stripped model."""
    data, validation, test = splits
    start = time.perf_counter()
    shared = lenet.share_weights(dense, folder, data, validation, args.epochs, **args.settings)
    seconds = time.perf_counter() - start
    small = sws.strip_soft_weight_sharing(shared)
    small.save(folder / "stripped.keras")
    report = sws.compression_report(small)
    path = folder / "stripped.sws"
    sws.save_compressed(small, path)
    tflite = sws.convert_to_tflite(small)
    record = {
        "validation error, last epoch": lenet.measure_error(shared, validation),
        "validation error": lenet.measure_error(small, validation),
        "test error": lenet.measure_error(small, test),
        "non-zero": 1.0 - report.num_zeros / report.num_weights,
        "distinct values": _distinct(small),
        "HAN": report.dense_bytes / report.han_bytes,
        "bytes": path.stat().st_size,
        "BYTES": report.dense_bytes / path.stat().st_size,
        "gzip .tflite": len(gzip.compress(tflite, 9)),
        "seconds": seconds,
    }
    return record, small


def _distinct(model):
    return int(np.unique(np.concatenate([np.ravel(w) for w in model.get_weights()])).size)


def run_tfmot(dense, folder, splits, limit):
    """tfmot's pipeline in a process of its own, for it changes what tf.keras is."""
    weights, results = folder / "dense.npz", folder / "tfmot.json"
    np.savez(weights, *dense.get_weights())
    arrays = folder / "splits.npz"
    if not results.exists():
        np.savez(arrays, *(array for split in splits for array in split))
        common.run_module("tfmot_pipeline", dense.name, weights, arrays, results)
        arrays.unlink()
    return common.pick(json.loads(results.read_text()), limit)


def run_nncodec(python, dense, folder, splits, limit):
    """NNCodec on the dense network, at every quantisation parameter."""
    results = folder / "nncodec.json"
    if not results.exists():
        measure = functools.partial(_measure, splits=splits)
        records = try_nncodec(python, dense, NNCODEC_QPS, measure)
        results.write_text(json.dumps(records))
    return common.pick(json.loads(results.read_text()), limit)


def try_nncodec(python, dense, qps, measure):
    """A record of each quantisation parameter; `measure` gives the figures of a model."""
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        sizes = _code(python, scratch, "dense", dense, qps)
        return [
            {
                "setting": f"qp {qp}",
                "bytes": sizes[str(qp)],
                **measure(_decode(scratch, qp, dense)),
            }
            for qp in qps
        ]


def _code(python, scratch, kind, model, qps=()):
    """Bytes by quantisation parameter, or of the indices of a stripped model."""
    np.savez(scratch / f"{kind}.npz", *model.get_weights())
    # -I keeps the modules next to the script from hiding others of their names.
    command = [python, "-I", str(NNCODEC_SCRIPT), str(scratch), *map(str, qps)]
    subprocess.run(command, check=True, cwd=scratch, stdout=subprocess.DEVNULL)
    return json.loads((scratch / "sizes.json").read_text())


def _decode(scratch, qp, dense):
    """The dense network with the weights that NNCodec gives back."""
    model = keras.models.clone_model(dense)
    with np.load(scratch / f"decoded{qp}.npz") as file:
        model.set_weights([file[name] for name in file.files])
    return model


def _measure(model, splits):
    _, validation, test = splits
    return {
        "validation error": lenet.measure_error(model, validation),
        "test error": lenet.measure_error(model, test),
    }


def run_nncodec_on_ours(python, small):
    """Bytes of our indices, coded by NNCodec without loss, and of the codebook."""
    with tempfile.TemporaryDirectory() as name:
        return _code(python, pathlib.Path(name), "stripped", small)["stripped"]


def run_seed(seed, splits, args):
    """Everything for one seed, as rows of method and figures."""
    folder = (args.cache / f"{args.net}-{seed}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    dense = lenet.pretrain(args.net, folder, *splits[:2])
    reference = keras.models.clone_model(dense)
    reference.set_weights(dense.get_weights())
    _, validation, test = splits
    # The same numbers whether the dense network comes from the cache or not.
    keras.utils.set_random_seed(seed)
    dense_bytes = 4 * dense.count_params()
    rows = {
        "dense": {
            "validation error": lenet.measure_error(dense, validation),
            "test error": lenet.measure_error(dense, test),
            "bytes": dense_bytes,
            "BYTES": 1.0,
        }
    }
    rows["soft weight-sharing"], small = compress(dense, folder, splits, args)
    limit = rows["soft weight-sharing"]["validation error"]
    if args.peers and seed in args.peer_seeds:
        rows["tfmot prune + cluster, gzip"] = run_tfmot(reference, folder, splits, limit)
    if args.nncodec and seed in args.peer_seeds:
        rows["NNCodec on dense"] = run_nncodec(args.nncodec, reference, folder, splits, limit)
        rows["NNCodec on ours"] = {"bytes": run_nncodec_on_ours(args.nncodec, small)}
    for row in rows.values():
        row["BYTES"] = dense_bytes / row["bytes"]
    return rows


def summarise(runs):
    """Mean and deviation over the seeds of every figure of every method."""
    summary = {}
    for method in dict.fromkeys(method for run in runs for method in run):
        rows = [run[method] for run in runs if method in run]
        names = [n for n, v in rows[0].items() if not isinstance(v, str)]
        columns = {n: [row[n] for row in rows] for n in names}
        summary[method] = {n: (np.mean(v), np.std(v)) for n, v in columns.items()}
    return summary


def to_markdown(record):
    """Command, environment, and the figures of every seed and their means."""
    runs = record["runs"]
    summary = summarise(runs)
    names = list(summary["soft weight-sharing"])
    # Records without their arguments are of seeds counted from 0.
    seeds = record.get("arguments", {}).get("seeds", range(len(runs)))
    rows = []
    for seed, run in zip(seeds, runs, strict=True):
        for method, figures in run.items():
            rows.append([seed, method, *(_cell(n, figures.get(n)) for n in names)])
    for method, figures in summary.items():
        cells = (
            " ± ".join(_cell(n, v) for v in figures[n]) if n in figures else "" for n in names
        )
        rows.append(["mean", f"**{method}**", *cells])
    table = common.to_table(["seed", "method", *names], rows)
    return common.join(common.to_header(record), table)


def _cell(name, value):
    if value is None:
        return ""
    if "error" in name or name == "non-zero":
        return f"{value:.2%}"
    return f"{value:,.0f}" if name in ("bytes", "gzip .tflite", "seconds") else f"{value:.1f}"


def main():
    """Runs the seeds, prints the table and saves it."""
    args = _parse_arguments()
    record = common.start_record("compression", args)
    splits = lenet.load_mnist(args.data)
    record["runs"] = [run_seed(seed, splits, args) for seed in args.seeds]
    text = to_markdown(record)
    print(text)
    common.write("compression", args, record, text)


def _parse_arguments():
    parser = common.make_parser(__doc__)
    common.add_data_argument(parser)
    parser.add_argument("--net", choices=sorted(lenet.NETS), default="lenet-300-100")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--peer-seeds", type=int, nargs="+", help="seeds of the peers; default as --seeds"
    )
    parser.add_argument("--epochs", type=int, help="epochs of soft weight-sharing")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of arguments")
    parser.add_argument("--nncodec", help="python of an environment with nncodec")
    parser.add_argument(
        "--no-peers", dest="peers", action="store_false", help="leave out tfmot"
    )
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("runs/benchmark"))
    args = parser.parse_args()
    args.epochs = args.epochs or lenet.SHARE_EPOCHS[args.net]
    args.peer_seeds = args.seeds if args.peer_seeds is None else args.peer_seeds
    args.run = args.run or args.net
    return args


if __name__ == "__main__":
    main()
