"""Stated sizes: asked against got, and the error beside that of a tau set by hand.

    python -m benchmarks.targets --data FOLDER --nets text recurrent --ratios 8 15 30

Each pretrained network of `benchmarks.real_networks` is trained once for each ratio with
`target_ratio=`. `--by-hand` then trains it with the complexity weight with which that training
ended, from the same start: what a user would have had who had guessed it. Errors are those on
validation data. Results are stored after each row; `--resume` goes on with those.
"""

import json
import os
import pathlib
import time
import warnings

import keras

import tfmot_sws as sws
from benchmarks import common
from benchmarks.real_networks import NETWORKS, files
from benchmarks.real_networks.network import CACHE
from tfmot_sws.backend.scalars import to_float

SCRIPT = "targets"
RATIOS = (8, 15, 30, 60, 120, 300)
COLUMNS = ("network", "seed", "asked", "got", "off", "error", "dense", "by hand", "time")


def train(network, seed, args, **settings):
    """Bytes and error of a training from the pretrained network, and its final tau."""
    shared = sws.apply_soft_weight_sharing(network.dense(seed, args.cache), **settings)
    start = time.perf_counter()
    network.compile(shared)
    with warnings.catch_warnings():
        # The table says how far a target was missed.
        warnings.simplefilter("ignore")
        network.fit(shared, seed=seed, callbacks=[sws.AnnealAndMerge()])
        small = sws.strip_soft_weight_sharing(shared)
    return {
        "seconds": time.perf_counter() - start,
        "bytes": common.count_sws_bytes(small),
        "error": network.metric(small, "validation"),
        "tau": to_float(shared.complexity_weight),
    }


def make_row(network, seed, ratio, args):
    """What was asked and what came of it, or the refusal."""
    keras.backend.clear_session()
    dense = network.dense(seed, args.cache)
    row = {"dense bytes": 4 * dense.count_params()}
    row["pretrained error"] = network.metric(dense, "validation")
    try:
        row |= train(network, seed, args, target_ratio=ratio)
    except ValueError as refusal:
        return {**row, "refused": str(refusal)}
    if args.by_hand:
        row["by hand"] = train(network, seed, args, complexity_weight=row["tau"])
    return row


def to_markdown(record):
    """Command and environment, and one table."""
    table = [_cells(row) for row in record["rows"]]
    return common.join(
        common.to_header(record), common.to_section("targets", common.to_table(COLUMNS, table))
    )


def _cells(row):
    ratio = row["ratio"]
    cells = [row["network"], str(row["seed"]), f"{ratio:g}x"]
    if "refused" in row:
        return [*cells, "refused", "", "", "", "", ""]
    got = row["dense bytes"] / row["bytes"]
    hand = row.get("by hand")
    return [
        *cells,
        f"{got:.1f}x",
        f"{ratio / got - 1:+.1%}",
        f"{row['error']:.2%}",
        f"{row['pretrained error']:.2%}",
        f"{hand['error']:.2%} at {row['dense bytes'] / hand['bytes']:.1f}x" if hand else "",
        f"{row['seconds']:.0f} s",
    ]


def main():
    """Runs what is asked for, prints the table and saves it."""
    args = _parse_arguments()
    if args.data:
        os.environ[files.VARIABLE] = str(args.data.resolve())
    record = {**common.start_record(SCRIPT, args), "rows": []}
    path = args.output / SCRIPT / f"{args.run}.json"
    if args.resume and path.exists():
        record["rows"] = json.loads(path.read_text())["rows"]
    done = {(row["network"], row["seed"], row["ratio"]) for row in record["rows"]}
    for name in args.nets:
        for seed in args.seeds:
            for ratio in args.ratios:
                if (name, seed, ratio) in done:
                    continue
                row = make_row(NETWORKS[name], seed, ratio, args)
                named = {"network": name, "seed": seed, "ratio": ratio}
                record["rows"].append({**named, **row})
                common.write(SCRIPT, args, record, to_markdown(record))
                print(record["rows"][-1], flush=True)
    print(to_markdown(record))


def _parse_arguments():
    parser = common.make_parser(__doc__)
    add = parser.add_argument
    add("--data", type=pathlib.Path, help=f"folder of data; else ${files.VARIABLE} names it")
    add("--nets", nargs="+", choices=list(NETWORKS), required=True, metavar="NET")
    add("--ratios", type=float, nargs="+", default=list(RATIOS))
    add("--seeds", type=int, nargs="+", default=[0])
    add("--cache", type=pathlib.Path, default=CACHE, help="folder of pretrained networks")
    add("--by-hand", action="store_true", help="train with the complexity weight by hand, too")
    add("--resume", action="store_true", help="go on with the stored rows of this run")
    args = parser.parse_args()
    args.run = args.run or common.name_run(args.nets)
    return args


if __name__ == "__main__":
    main()
