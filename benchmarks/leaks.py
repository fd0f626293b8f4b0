"""Memory of a process that goes on and on: trainings, saving and loading, exports.

    python -m benchmarks.leaks
    python -m benchmarks.leaks --share 0.1 --run quick

What a search over settings does, in one process a cell: the same small model is wrapped,
trained, and stripped; saved and loaded; exported; round after round. Beside it, in processes
of their own, plain Keras does the same without this package: it builds and trains the model;
saves and loads it as a `.keras` file; converts it. Memory is the greatest that the process
has had until a tenth of the rounds was done, and until all were.
"""

import argparse
import io
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

import keras
import numpy as np

import tfmot_sws as sws
from benchmarks import common

SCRIPT = "leaks"
ROUNDS = {"fit": 300, "save and load": 200, "export": 100}
STEPS = 8


def build():
    """A small network with a convolution, BatchNorm and a dense layer, not trained."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def fit(model, **settings):
    """Trains on noise for a few steps."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * 16, 8, 8, 3)).astype("float32")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, rng.integers(0, 10, len(x)), batch_size=16, verbose=0, **settings)


def shared_fit():
    """Wraps, trains and strips a new model."""
    shared = sws.apply_soft_weight_sharing(build())
    fit(shared, callbacks=[sws.AnnealAndMerge()])
    return sws.strip_soft_weight_sharing(shared)


def plain_fit():
    """Trains a new model."""
    model = build()
    fit(model)
    return model


def cells():
    """What is repeated: by its name and by who does it."""
    folder = pathlib.Path(tempfile.mkdtemp())
    plain, path = plain_fit(), folder / "model.keras"
    small = shared_fit()

    def shared_files():
        stream = io.BytesIO()
        sws.save_compressed(small, stream)
        stream.seek(0)
        sws.load_compressed(stream)

    def plain_files():
        plain.save(path)
        keras.models.load_model(path)

    def plain_export():
        import tensorflow as tf

        tf.lite.TFLiteConverter.from_keras_model(plain).convert()

    return {
        ("fit", "tfmot_sws"): shared_fit,
        ("fit", "plain"): plain_fit,
        ("save and load", "tfmot_sws"): shared_files,
        ("save and load", "plain"): plain_files,
        ("export", "tfmot_sws"): lambda: sws.convert_to_tflite(small),
        ("export", "plain"): plain_export,
    }


def measure(what, who, rounds):
    """Bytes of the process after a tenth of the rounds and after all."""
    action = cells()[what, who]
    sizes = []
    for done in range(1, rounds + 1):
        action()
        if done in (max(rounds // 10, 1), rounds):
            sizes.append(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {"tenth": sizes[0], "end": sizes[-1]}


def to_markdown(record):
    """A line for each of what is repeated and by whom."""
    headers = ["", "by", "rounds", "MB after a tenth", "MB at the end", "grown by"]
    lines = [
        [
            row["what"],
            row["who"],
            row["rounds"],
            f"{row['tenth'] / 1e6:.0f}",
            f"{row['end'] / 1e6:.0f}",
            f"{100 * (row['end'] / row['tenth'] - 1):.0f} %",
        ]
        for row in record["rows"]
    ]
    table = common.to_table(headers, lines)
    return common.join(common.to_header(record), common.to_section("leaks", table))


def main():
    """Measures each cell in a process of its own, and writes the table."""
    parser = common.make_parser(__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the rounds, in (0, 1]")
    parser.add_argument("--only", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        what, who, rounds = args.cell
        print(json.dumps(measure(what, who, int(rounds))))
        return
    args.run = args.run or "all"
    record = {**common.start_record(SCRIPT, args), "rows": []}
    for what in args.only:
        for who in ("plain", "tfmot_sws"):
            rounds = max(2, round(args.share * ROUNDS[what]))
            words = ("--cell", what, who, rounds)
            done = common.run_module(SCRIPT, *words, stdout=subprocess.PIPE, text=True)
            row = {"what": what, "who": who, "rounds": rounds}
            record["rows"].append(row | json.loads(done.stdout.splitlines()[-1]))
            print(record["rows"][-1], file=sys.stderr, flush=True)
        common.write(SCRIPT, args, record, to_markdown(record))
    print(to_markdown(record))


if __name__ == "__main__":
    main()
