"""Draws error against size from the result files of compression.py.

python -m benchmarks.tradeoff benchmarks/results/compression/lenet-300-100*.json \
        --output docs/images/tradeoff.png
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from tfmot_sws import visualization

SERIES = {
    "soft weight-sharing": "soft weight-sharing",
    "tfmot prune + cluster, gzip": "tfmot, gzip",
    "NNCodec on dense": "NNCodec on dense",
}


def main():
    """Means over the seeds of each file, a series a method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=pathlib.Path, nargs="+", help="JSON files")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a .png file")
    args = parser.parse_args()
    points, dense = {}, []
    for path in args.results:
        runs = json.loads(path.read_text())["runs"]
        dense += [run["dense"]["test error"] for run in runs]
        for method, label in SERIES.items():
            rows = [run[method] for run in runs if method in run]
            if rows:
                mean = [
                    np.mean([row[name] for row in rows]) for name in ("bytes", "test error")
                ]
                points.setdefault(label, []).append(tuple(mean))
    ax = visualization.plot_tradeoff(points, baseline=float(np.mean(dense)))
    ax.figure.set_size_inches(6, 4)
    ax.figure.savefig(args.output, dpi=80, bbox_inches="tight")
    plt.close(ax.figure)


if __name__ == "__main__":
    main()
