"""`find_smallest` on real networks, beside trainings whose tau is set by hand.

    python -m benchmarks.smallest --data FOLDER --nets lenet-300-100 resnet-8 --by-hand 0.3 1 3

The search gets a pretrained network of `benchmarks.real_networks`, its data and optimizer, and
chooses all else. `--by-hand` also trains the same network with the default complexity weight
times each factor, as long as one training of the search. The smallest file within `--max-drop`
counts. Validation data decides about everything; test data gives the figures of what was
chosen. Results are stored after each network; `--resume` keeps those. A search that was killed
goes on where it was.
"""

import time

import keras

import tfmot_sws as sws
from benchmarks import common, targets
from benchmarks.real_networks import NETWORKS, arguments

SCRIPT = "smallest"
OVERVIEW = (
    "network",
    "trainings",
    "of epochs",
    "rate",
    "validation",
    "found",
    "validation",
    "test",
    "by hand",
    "validation",
    "time",
)
TRIALS = ("asked", "got", "bytes", "drop", "")


def make_row(network, seed, args):
    """The search's trainings, and what was chosen on test data."""
    dense = network.dense(seed, args.cache)
    network.compile(dense)
    training, validation, _ = network.data()
    batch_size = network.tuning.batch_size
    how = [*_training(network).values(), args.max_drop]
    made = network.batches and network.batches(training, batch_size, seed)
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    found = sws.find_smallest(
        dense,
        made or training,
        validation,
        epochs=network.tuning.epochs,
        max_drop=args.max_drop,
        batch_size=None if made else batch_size,
        max_trainings=args.trainings,
        folder=args.cache / "-".join(["search", network.name, *map(str, [seed, *how])]),
    )
    return {
        "seconds": time.perf_counter() - start,
        "pretrained": network.metric(dense, "validation"),
        "pretrained on test": network.metric(dense, "test"),
        "validation": network.metric(found.model, "validation"),
        "test": network.metric(found.model, "test"),
        "dense bytes": 4 * dense.count_params(),
        "bytes": found.chosen.size,
        "met": found.met,
        "trials": found.to_dicts(),
    }


def to_markdown(record):
    """Command and environment, an overview, and the trainings of each search."""
    rows = record["rows"]
    limit = record["arguments"]["max_drop"]
    overview = common.to_table(OVERVIEW, [_cells(row, limit) for row in rows])
    parts = [_to_section(row) for row in rows]
    return common.join(
        common.to_header(record), common.to_section("overview", overview), *parts
    )


def _cells(row, limit):
    dense = row["dense bytes"]
    note = "" if row["met"] else ", too far"
    cells = [
        row["network"],
        str(len(row["trials"])),
        str(row["epochs"]),
        f"{row['rate']:g}",
        f"{row['pretrained']:.2%}",
        f"{row['bytes']:,}, {dense / row['bytes']:.1f}x{note}",
        f"{row['validation']:.2%}",
        f"{row['test']:.2%} (dense {row['pretrained on test']:.2%})",
    ]
    good = [run for run in row.get("by hand", []) if run["error"] <= row["pretrained"] + limit]
    best = min(good, key=lambda run: run["bytes"], default=None)
    if best is None:
        return [*cells, "none" if row.get("by hand") else "", "", f"{row['seconds']:.0f} s"]
    by_hand = f"{best['bytes']:,}, {dense / best['bytes']:.1f}x"
    return [*cells, by_hand, f"{best['error']:.2%}", f"{row['seconds']:.0f} s"]


def _to_section(row):
    dense = row["dense bytes"]
    cells = [
        [
            f"{trial['asked']:.1f}x",
            f"{trial['ratio']:.1f}x",
            f"{trial['size']:,}",
            f"{trial['drop']:+.4f}",
            "good enough" if trial["met"] else "",
        ]
        for trial in row["trials"]
    ]
    cells += [
        [
            f"tau x {run['factor']:g}",
            f"{dense / run['bytes']:.1f}x",
            f"{run['bytes']:,}",
            f"{run['error'] - row['pretrained']:+.4f}",
            "by hand",
        ]
        for run in row.get("by hand", [])
    ]
    name = f"{row['network']}-{row['seed']}"
    return f"## {name}\n\n" + common.to_section(name, common.to_table(TRIALS, cells))


def main():
    """Runs what is asked for, prints the tables and saves them."""
    args = _parse_arguments()
    record = common.open_record(SCRIPT, args, rows=[])
    for name in args.nets:
        network = NETWORKS[name].retuned(epochs=args.epochs, rate=args.rate)
        for seed in args.seeds:
            _run(network, seed, record, args)
    print(to_markdown(record))


def _run(network, seed, record, args):
    """Adds what is missing of one network and seed."""
    known = {"network": network.name, "seed": seed, **_training(network)}
    found = [row for row in record["rows"] if known.items() <= row.items()]
    row = found[0] if found else {**known, **make_row(network, seed, args)}
    if not found:
        record["rows"].append(row)
        common.write(SCRIPT, args, record, to_markdown(record))
    if args.by_hand:
        row["by hand"] = _set_by_hand(network, seed, args, row.get("by hand", []))
        common.write(SCRIPT, args, record, to_markdown(record))


def _training(network):
    return {"epochs": network.tuning.epochs, "rate": network.tuning.rate}


def _set_by_hand(network, seed, args, known):
    """What is known, and what is missing of it."""
    known = {run["factor"]: run for run in known}
    missing = [factor for factor in args.by_hand if factor != 1 and factor not in known]
    default = known.get(1.0)
    runs = targets.set_by_hand(network, seed, missing, args, default=default)
    added = zip([1.0, *missing], runs, strict=True)
    known |= {factor: {**run, "factor": factor} for factor, run in added}
    return list(known.values())


def _parse_arguments():
    # Elsewhere the metric of Keras is not the error of the table.
    classifiers = [n for n, net in NETWORKS.items() if net.task.metric == "wrong answers"]
    parser = arguments.make_parser(__doc__, nets=classifiers)
    add = parser.add_argument
    add("--epochs", type=int, help="of each training; default: those of the network")
    add("--rate", type=float, help="greatest learning rate; default: that of the network")
    add("--max-drop", type=float, default=0.01, help="of the first metric, as find_smallest")
    add("--trainings", type=int, default=8, help="the most of them in a search")
    add("--by-hand", type=float, nargs="+", default=[], metavar="FACTOR")
    return arguments.parse(parser)


if __name__ == "__main__":
    main()
