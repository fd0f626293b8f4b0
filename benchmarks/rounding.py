"""What rounding the values that are not shared costs: on and off, network by network.

    python -m benchmarks.rounding --data FOLDER --nets text unet --seeds 0 1 2

Each network is trained with its usual settings from the same pretrained weights, with
`rounding=True` and with `rounding=False`, once for each seed; the seed decides the order of
the examples. All errors are those on validation data, for it is a default that is chosen.
*By the strip* are the points of error that stripping adds to the last epoch's.
Results are stored after each row; `--resume` goes on with those.
"""

import statistics

import keras

from benchmarks import common, targets
from benchmarks.real_networks import NETWORKS, arguments

SCRIPT = "rounding"
OVERVIEW = ("network", "epochs", "seeds", "error, off", "error, on", "points", "s.d.", "bytes")
COLUMNS = ("network", "seed", "rounding", "error", "by the strip", "bytes", "time")


def to_markdown(record):
    """Command and environment, the means over the seeds, and all trainings."""
    return common.join(
        common.to_header(record),
        common.to_section("overview", common.to_table(OVERVIEW, _compare(record["rows"]))),
        common.to_section(
            "trainings", common.to_table(COLUMNS, [_cells(row) for row in record["rows"]])
        ),
    )


def _cells(row):
    return [
        row["network"],
        str(row["seed"]),
        "on" if row["rounding"] else "off",
        f"{row['error']:.2%}",
        _of_strip(row),
        f"{row['bytes']:,}",
        f"{row['seconds']:.0f} s",
    ]


def _of_strip(row):
    """The points of error that stripping adds, of which rows of earlier runs know nothing."""
    if "error before the strip" not in row:
        return ""
    return f"{100 * (row['error'] - row['error before the strip']):+.2f}"


def _compare(rows):
    """A line for each network of which both trainings of a seed have ended."""
    lines = []
    for name, epochs in dict.fromkeys((row["network"], row["epochs"]) for row in rows):
        of_network = [row for row in rows if (row["network"], row["epochs"]) == (name, epochs)]
        on, off = (
            {row["seed"]: row for row in of_network if row["rounding"] == is_on}
            for is_on in (True, False)
        )
        seeds = sorted(on.keys() & off.keys())
        if seeds:
            pairs = [(on[seed], off[seed]) for seed in seeds]
            lines.append([name, str(epochs), str(len(seeds)), *_means(pairs)])
    return lines


def _means(pairs):
    """Mean errors, their mean difference and its standard deviation, and mean bytes."""
    with_it, without = ([pair[i] for pair in pairs] for i in range(2))
    points = [100 * (a["error"] - b["error"]) for a, b in pairs]
    sizes = [statistics.mean(row["bytes"] for row in side) for side in (without, with_it)]
    return [
        f"{statistics.mean(row['error'] for row in without):.2%}",
        f"{statistics.mean(row['error'] for row in with_it):.2%}",
        f"{statistics.mean(points):+.2f}",
        f"{statistics.stdev(points):.2f}" if len(points) > 1 else "",
        f"{sizes[0]:,.0f} -> {sizes[1]:,.0f}",
    ]


def main():
    """Runs what is asked for, prints the tables and saves them."""
    args = _parse_arguments()
    record = common.open_record(SCRIPT, args, rows=[])
    for name in args.nets:
        for seed in args.seeds:
            for is_on in (True, False):
                _run(NETWORKS[name].retuned(epochs=args.epochs), seed, is_on, record, args)
    print(to_markdown(record))


def _run(network, seed, is_on, record, args):
    """Adds a row unless the record has it."""
    row = {
        "network": network.name,
        "start": args.start,
        "seed": seed,
        "rounding": is_on,
        "epochs": network.tuning.epochs,
    }
    if any(row.items() <= old.items() for old in record["rows"]):
        return
    keras.backend.clear_session()
    dense = network.dense(args.start, args.cache)
    record["rows"].append(row | targets.train(network, dense, seed, rounding=is_on))
    common.write(SCRIPT, args, record, to_markdown(record))
    print(record["rows"][-1], flush=True)


def _parse_arguments():
    parser = arguments.make_parser(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--start", type=int, default=0, help="seed of the pretrained network")
    parser.add_argument("--epochs", type=int, help="default: each network's own")
    return arguments.parse(parser)


if __name__ == "__main__":
    main()
