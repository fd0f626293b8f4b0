"""Stated sizes: asked against got, and the error beside that of a tau set by hand.

    python -m benchmarks.targets --data FOLDER --nets text recurrent --ratios 8 15 30

Each pretrained network of `benchmarks.real_networks` is trained once for each ratio with
`target_ratio=`. `--by-hand 0.1 1 10` also trains it with the default complexity weight times
each of these factors, from the same start: the front that a user finds who turns the dial.
Beside a target's error the table has the least of those whose files are no larger. Errors are
those on validation data. Results are stored after each row; `--resume` goes on with those.
"""

import math
import time
import warnings

import keras

import tfmot_sws as sws
from benchmarks import common
from benchmarks.real_networks import NETWORKS, arguments
from tfmot_sws.backend.scalars import to_float

SCRIPT = "targets"
RATIOS = (8, 15, 30, 60, 120, 300)
COLUMNS = (
    "network",
    "seed",
    "asked",
    "got",
    "off",
    "error",
    "dense",
    "as small by hand",
    "nearest by hand",
    "time",
)

# How much larger than the target's a file set by hand may be and still count as no larger.
TOLERANCE = 1.03


def train(network, dense, seed, **settings):
    """Bytes, errors, seconds and final tau of a training from a pretrained model."""
    shared = sws.apply_soft_weight_sharing(dense, **settings)
    start = time.perf_counter()
    network.compile(shared)
    with warnings.catch_warnings():
        # The table says how far a target was missed.
        warnings.simplefilter("ignore")
        network.fit(shared, seed=seed, callbacks=[sws.AnnealAndMerge()])
        seconds = time.perf_counter() - start
        before = network.metric(shared, "validation")
        small = sws.strip_soft_weight_sharing(shared)
    return {
        "seconds": seconds,
        "error before the strip": before,
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
        row |= train(network, dense, seed, target_ratio=ratio)
    except ValueError as refusal:
        return {**row, "refused": str(refusal)}
    return row


def set_by_hand(network, seed, factors, args, default=None):
    """Records of trainings with the default complexity weight times each factor.

    The first is `default`, the record of a training with factor 1, made if it is `None`.
    """
    default = default or train(network, network.dense(seed, args.cache), seed)
    others = [
        train(
            network,
            network.dense(seed, args.cache),
            seed,
            complexity_weight=factor * default["tau"],
        )
        for factor in factors
        if factor != 1
    ]
    return [default, *others]


def to_markdown(record):
    """Command and environment, and one table."""
    table = [_cells(row, record["by hand"]) for row in record["rows"]]
    return common.join(
        common.to_header(record), common.to_section("targets", common.to_table(COLUMNS, table))
    )


def _cells(row, by_hand):
    ratio = row["ratio"]
    cells = [row["network"], str(row["seed"]), f"{ratio:g}x"]
    if "refused" in row:
        return [*cells, "refused", *[""] * (len(COLUMNS) - len(cells) - 1)]
    got = row["dense bytes"] / row["bytes"]
    return [
        *cells,
        f"{got:.1f}x",
        f"{ratio / got - 1:+.1%}",
        f"{row['error']:.2%}",
        f"{row['pretrained error']:.2%}",
        _best_by_hand(row, by_hand.get(_key(row), [])),
        _nearest_by_hand(row, by_hand.get(_key(row), [])),
        f"{row['seconds']:.0f} s",
    ]


def _best_by_hand(row, runs):
    small_enough = [run for run in runs if run["bytes"] <= TOLERANCE * row["bytes"]]
    if not small_enough:
        return "none as small" if runs else ""
    return _in_words(row, min(small_enough, key=lambda run: run["error"]))


def _nearest_by_hand(row, runs):
    if not runs:
        return ""
    return _in_words(row, min(runs, key=lambda run: abs(math.log(run["bytes"] / row["bytes"]))))


def _in_words(row, run):
    return f"{run['error']:.2%} at {row['dense bytes'] / run['bytes']:.1f}x"


def _key(row):
    return f"{row['network']}-{row['seed']}"


def main():
    """Runs what is asked for, prints the table and saves it."""
    args = _parse_arguments()
    record = common.open_record(SCRIPT, args, **{"rows": [], "by hand": {}})
    for name in args.nets:
        network = NETWORKS[name].retuned(epochs=args.epochs, rate=args.rate)
        for seed in args.seeds:
            _run(network, seed, record, args)
    print(to_markdown(record))


def _run(network, seed, record, args):
    """Adds what is missing of one network and seed."""
    name = network.name
    done = {(row["network"], row["seed"], row["ratio"]) for row in record["rows"]}
    for ratio in args.ratios:
        if (name, seed, ratio) not in done:
            row = {"network": name, "seed": seed, "ratio": ratio}
            record["rows"].append(row | make_row(network, seed, ratio, args))
            common.write(SCRIPT, args, record, to_markdown(record))
            print(record["rows"][-1], flush=True)
    key = _key({"network": name, "seed": seed})
    if args.by_hand and key not in record["by hand"]:
        record["by hand"][key] = set_by_hand(network, seed, args.by_hand, args)
        common.write(SCRIPT, args, record, to_markdown(record))
        print(key, record["by hand"][key], flush=True)


def _parse_arguments():
    parser = arguments.make_parser(__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--by-hand", type=float, nargs="+", default=[], metavar="FACTOR")
    parser.add_argument("--epochs", type=int, help="default: those of the network")
    parser.add_argument("--rate", type=float, help="greatest rate; default: the network's")
    return arguments.parse(parser)


if __name__ == "__main__":
    main()
