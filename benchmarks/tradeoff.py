"""Draws error against size of one network from the stored results.

    python -m benchmarks.tradeoff text --output docs/images/tradeoff.png

Reads the records of `real_networks`, `targets` and `smallest` under benchmarks/results/; of the
last two the trainings to a stated size. Errors are those on validation data, by which each
recipe's settings are chosen, of seed 0.
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt

from benchmarks import common
from tfmot_sws import visualization

SEED = 0
OURS = "soft weight-sharing"
RECIPES = {
    "sws": OURS,
    "tfmot": "tfmot prune + cluster, gzip",
    "qat": "clustering without a prior",
    "int8": "int8, gzip",
    "nncodec": "NNCodec on dense",
}
# A network this much worse than dense is of no use to anybody; its point is left out.
FARTHEST = 0.1


def collect(network):
    """(bytes, error) of all runs of a network by name of the recipe, and dense's error."""
    points = {label: [] for label in RECIPES.values()}
    rows = list(_rows("real_networks", network))
    for row in rows:
        if row["recipe"] in RECIPES:
            points[RECIPES[row["recipe"]]].append((row["bytes"], row["validation error"]))
    for row in _rows("targets", network):
        if "refused" not in row:
            points[OURS].append((row["bytes"], row["error"]))
    for row in _rows("smallest", network):
        points[OURS] += [
            (trial["size"], row["pretrained"] + trial["drop"]) for trial in row["trials"]
        ]
    dense = next(r["validation error"] for r in rows if r["setting"] == "trained on")
    near = {
        label: [point for point in series if point[1] <= dense + FARTHEST]
        for label, series in points.items()
    }
    return {label: series for label, series in near.items() if series}, dense


def _rows(script, network):
    for path in sorted((common.RESULTS / script).glob("*.json")):
        for row in json.loads(path.read_text())["rows"]:
            if row["network"] == network and row["seed"] == SEED:
                yield row


def main():
    """Draws one network's picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", help="name in benchmarks.real_networks")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a .png file")
    args = parser.parse_args()
    points, dense = collect(args.network)
    ax = visualization.plot_tradeoff(points, baseline=dense)
    ax.figure.set_size_inches(6.5, 4)
    ax.figure.savefig(args.output, dpi=80, bbox_inches="tight")
    plt.close(ax.figure)


if __name__ == "__main__":
    main()
