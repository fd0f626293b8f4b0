"""The four networks of MLPerf Tiny, from their Keras files to every .tflite format.

    python examples/mlperf_tiny.py --models FOLDER
    python examples/mlperf_tiny.py --models FOLDER --data cifar10.npz --nets resnet-8
    python examples/mlperf_tiny.py --models FOLDER --quick

FOLDER is a copy of github.com/mlcommons/tiny, or holds these files of it, which lie under
`benchmark/training/<task>/trained_models/`: `pretrainedResnet.h5`, `ad01.h5`, `vww_96.h5` and
`str_ww_ref_model.h5`. Each network is loaded, compressed to a stated size, stored as a .sws
file, and exported in every format; each .tflite file runs in LiteRT.

ResNet-8 trains on CIFAR-10, which Keras downloads unless `--data` names an .npz file with
`x_train`, `y_train`, `x_test` and `y_test`. The data of the others is not asked for: they are
trained on what the dense network answers to made-up inputs. That shows the way and the sizes,
and says nothing about accuracy on real data.

Most of the time, a quarter of an hour on two busy cores, is ResNet-8's training; with `--quick`
a network takes one to three minutes, visual wake words longer. The format "tflm" needs
`pip install tflite-micro`.
"""

import argparse
import collections
import dataclasses
import functools
import os
import pathlib
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

# TensorFlow's start-up messages say nothing that is needed here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tf_keras
from ai_edge_litert.interpreter import Interpreter
from rich.console import Console
from rich.table import Table

import tfmot_sws as sws
from tfmot_sws.litert.export import FORMATS

SEED = 0
RATE = 1e-3
# Of CIFAR-10, kept from the training.
NUM_VALIDATION = 5_000
# Made-up inputs of the training, validation and test split.
MADE_UP = (512, 256, 512)
# Inputs that calibrate int8, and that each export is checked with.
CALIBRATION, SAMPLE = 256, 32
LATENCY_ROUNDS, RUNS_A_ROUND = 20, 10
# Those of the dense network, to compare with.
DENSE_FORMATS = ("float32", "int8")
# With --quick: so many examples of each split, and so many epochs.
QUICK_EXAMPLES, QUICK_EPOCHS = 128, 4

Split = collections.namedtuple("Split", ["x", "y"])


# How well a network does, from its outputs and labels or the dense network's answers.


def accuracy(outputs, labels):
    """Share of right answers, 0 to 1."""
    return float(np.mean(outputs.argmax(-1) == labels))


def same_class(outputs, answers):
    """Share of inputs that are put into the class that the dense network names, 0 to 1."""
    return accuracy(outputs, answers.argmax(-1))


def explained(outputs, answers):
    """R²: the share of the variance of the dense network's answers that outputs explain."""
    return float(
        1 - np.mean((outputs - answers) ** 2) / np.mean((answers - answers.mean(0)) ** 2)
    )


# Made-up inputs.


def smooth_noise(height, width, rng):
    """One field of noise, mean 0 and variance 1, that is smooth as pictures and sounds are."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / frequency**1.5
    field = np.fft.irfft2(spectrum, (height, width))
    return (field / field.std()).astype(np.float32)


def draw_picture(rng):
    """Pixels in [0, 1], most of the contrast in their brightness; (96, 96, 3)."""
    brightness = smooth_noise(96, 96, rng)[..., None]
    colour = np.stack([smooth_noise(96, 96, rng) for _ in range(3)], axis=-1)
    return np.clip(0.5 + 0.5 * (brightness + 0.3 * colour), 0, 1)


def draw_keyword(rng):
    """30 frames of 40 mel bands in [0, 1], of any loudness and contrast; (30, 1, 40)."""
    frames = rng.uniform(0.4, 0.8) + rng.uniform(0, 0.1) * smooth_noise(30, 40, rng)
    return np.clip(frames, 0, 1).astype(np.float32)[:, None]


def draw_machine(rng):
    """5 frames of 128 mel bands in decibels; (640,)."""
    return (-30 + 10 * smooth_noise(5, 128, rng)).reshape(-1)


# The networks.


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of MLPerf Tiny.

    Args:
        title: as MLPerf Tiny calls the task, and the network.
        file: its Keras file.
        library: Keras 3 or tf_keras. Keras 2 wrote the files. tf_keras reads all of them, Keras
            3 those without a DepthwiseConv2D, in whose configuration it knows no `groups`.
        reference_bytes: the int8 .tflite file of MLPerf Tiny.
        loss: the error loss.
        measure: how well it does, on test data or beside the dense network; greater is better.
        epochs: passes over the training data.
        batch_size: examples a step.
        ratio: how many times smaller than the float32 weights the .sws file is to be.
        draw: makes up one input; `None`: CIFAR-10 is taken.
    """

    title: str
    file: str
    library: Any
    reference_bytes: int
    loss: str
    measure: Callable[[np.ndarray, np.ndarray], float]
    epochs: int = 16
    batch_size: int = 32
    ratio: float = 20
    draw: Callable[[np.random.Generator], np.ndarray] | None = None

    def load(self, folder):
        """The dense network, not compiled; the file may lie anywhere in the folder."""
        path = next(iter(sorted(folder.rglob(self.file))), None)
        if path is None:
            raise FileNotFoundError(
                f"{self.file} is not in '{folder}': copy it there, from "
                "github.com/mlcommons/tiny."
            )
        return self.library.models.load_model(path, compile=False)


NETWORKS = {
    "resnet-8": Network(
        "image classification, ResNet-8",
        "pretrainedResnet.h5",
        keras,
        98_496,
        "sparse_categorical_crossentropy",
        accuracy,
        epochs=4,
        batch_size=64,
        ratio=24,
    ),
    "autoencoder": Network(
        "anomaly detection, autoencoder",
        "ad01.h5",
        keras,
        276_976,
        "mean_squared_error",
        explained,
        draw=draw_machine,
    ),
    "mobilenet": Network(
        "visual wake words, MobileNetV1 0.25",
        "vww_96.h5",
        tf_keras,
        333_288,
        "kl_divergence",
        same_class,
        draw=draw_picture,
    ),
    "wake-word": Network(
        "streaming wake word, separable convolutions",
        "str_ww_ref_model.h5",
        tf_keras,
        74_520,
        "kl_divergence",
        same_class,
        draw=draw_keyword,
    ),
}


# Data: a training, a validation and a test split.


def load_cifar10(path=None):
    """CIFAR-10, pixels from 0 to 255; the last images of its training part validate."""
    if path is None:
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    else:
        with np.load(path) as file:
            x, y, x_test, y_test = (file[f"{k}_{p}"] for p in ("train", "test") for k in "xy")
    cut = len(x) - NUM_VALIDATION
    y, y_test = y.reshape(-1), y_test.reshape(-1)
    return Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:]), Split(x_test, y_test)


def make_up_data(draw, dense, sizes):
    """Made-up inputs, and what the dense network answers to them."""
    rng = np.random.default_rng(SEED)
    inputs = [np.stack([draw(rng) for _ in range(size)]) for size in sizes]
    return tuple(Split(x, dense.predict(x, verbose=0)) for x in inputs)


# Training and export.


def keep_statistics(network, dense):
    """BatchNorm stays as it is, because made-up inputs have other statistics than real ones."""
    for layer in dense.layers:
        if isinstance(layer, network.library.layers.BatchNormalization):
            layer.trainable = False


def compress(network, dense, train, epochs, codebook="free"):
    """Trains under the mixture prior to a file of the stated size; gives a plain model."""
    shared = sws.apply_soft_weight_sharing(dense, target_ratio=network.ratio, codebook=codebook)
    steps = epochs * -(-len(train.x) // network.batch_size)
    optimizers = network.library.optimizers
    adam = optimizers.Adam(optimizers.schedules.CosineDecay(RATE, steps))
    # Compiled by XLA, a step with convolutions takes longer on a CPU.
    shared.compile(adam, network.loss, jit_compile=False)
    shared.fit(
        *train,
        batch_size=network.batch_size,
        epochs=epochs,
        callbacks=[sws.AnnealAndMerge()],
        verbose=0,
    )
    return sws.strip_soft_weight_sharing(shared)


def move_to_int4(network, model):
    """A copy for "int4_codebook", which takes no values but k times a step, |k| <= 7."""
    moved = network.library.models.clone_model(model)
    moved.set_weights([round_to_int4(w) if w.ndim > 1 else w for w in model.get_weights()])
    return moved


def round_to_int4(kernel):
    """Each weight at the nearest of 15 evenly spaced values."""
    step = np.float32(np.abs(kernel).max() / 7 or 1)
    return np.round(kernel / step) * step


def export(model, weights, path, splits):
    """A row of the table: what a file weighs and how exact it is, or why there is none."""
    train, validation, _ = splits
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            found = sws.export(
                model,
                path,
                weights,
                representative_data=train.x[:CALIBRATION],
                sample=validation.x[:SAMPLE],
            )
        except (ImportError, sws.ExportError) as refusal:
            return {"refused": one_line(refusal)}
    return {
        "raw": found.raw_bytes,
        "gzip": found.gzip_bytes,
        "difference": found.difference,
        "relative error": found.relative_error,
        "remarks": [
            one_line(w.message) for w in caught if w.category is sws.SoftWeightSharingWarning
        ],
    }


def one_line(message):
    """A message without line breaks."""
    return " ".join(str(message).split())


# What the files do in LiteRT.


def add_figures(rows, folder, network, test):
    """Adds to each row how well and how fast its file runs in LiteRT."""
    # Look-up tables run in TensorFlow Lite Micro only, where the export has compared them.
    names = [name for name, row in rows.items() if "refused" not in row and name != "tflm"]
    files = {name: (folder / f"{name}.tflite").read_bytes() for name in names}
    seconds = measure_latency(files, test.x[:1].astype(np.float32))
    for name, file in files.items():
        rows[name]["figure"] = network.measure(sws.predict_tflite(file, test.x), test.y)
        rows[name]["latency"] = seconds[name] / seconds["float32"]


def measure_latency(files, example, rounds=LATENCY_ROUNDS, runs=RUNS_A_ROUND):
    """Median seconds of one example, by file; rounds take turns, so that load hits all."""
    calls = {name: prepare(file, example) for name, file in files.items()}
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, invoke in calls.items():
            start = time.perf_counter()
            for _ in range(runs):
                invoke()
            seconds[name].append((time.perf_counter() - start) / runs)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def prepare(file, example):
    """A function that runs one example in LiteRT with its default settings, one thread."""
    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], example)
    interpreter.invoke()
    return interpreter.invoke


# All together.


def run(network, models, folder, cifar10=None, quick=False, codebook="free"):
    """Takes a network the whole way.

    Args:
        network: one of `NETWORKS`.
        models: the folder of the Keras files.
        folder: where the files of all formats are written.
        cifar10: gives the splits of CIFAR-10; called for ResNet-8 alone.
        quick: whether to take few examples and epochs, to try it out.
        codebook: "free" or "uniform", which "int4_codebook" needs.

    Returns:
        Sizes in bytes and figures, ready for JSON; `rows` has a record for each file.
    """
    keras.utils.set_random_seed(SEED)
    dense = network.load(models)
    splits = make_splits(network, dense, cifar10, quick)
    # The training changes the dense network, so what is made of it comes first.
    rows = export_all({f"dense, {w}": (dense, w) for w in DENSE_FORMATS}, folder, splits)
    result = describe(network, dense, splits)
    epochs = QUICK_EPOCHS if quick else network.epochs
    start = time.perf_counter()
    trained = compress(network, dense, splits[0], epochs, codebook)
    sws.save_compressed(trained, folder / "model.sws")
    result |= {"epochs": epochs, "seconds": time.perf_counter() - start}

    # All that follows is made of the .sws file.
    small = sws.load_compressed(folder / "model.sws")
    result["sws bytes"] = (folder / "model.sws").stat().st_size
    result["figure"] = predict_and_measure(small, network, splits[2])
    result["validation figure"] = predict_and_measure(small, network, splits[1])
    moved = move_to_int4(network, small)
    jobs = {weights: (small, weights) for weights in FORMATS}
    jobs["int4_codebook, moved"] = (moved, "int4_codebook")
    rows |= export_all(jobs, folder, splits)
    add_figures(rows, folder, network, splits[2])
    return {**result, "rows": rows}


def make_splits(network, dense, cifar10, quick):
    """The training, validation and test split of a network."""
    if network.draw is None:
        splits = cifar10()
    else:
        keep_statistics(network, dense)
        splits = make_up_data(network.draw, dense, [QUICK_EXAMPLES] * 3 if quick else MADE_UP)
    number = QUICK_EXAMPLES if quick else None
    return tuple(Split(x[:number], y[:number]) for x, y in splits)


def describe(network, dense, splits):
    """What is known before the training."""
    return {
        "title": network.title,
        "library": network.library.__name__,
        "measure": network.measure.__name__.replace("_", " "),
        "parameters": dense.count_params(),
        "reference bytes": network.reference_bytes,
        "examples": [len(split.x) for split in splits],
        "dense figure": predict_and_measure(dense, network, splits[2]),
    }


def predict_and_measure(model, network, split):
    """How well a Keras model does on a split."""
    return network.measure(model.predict(split.x, batch_size=256, verbose=0), split.y)


def export_all(jobs, folder, splits):
    """A row for each file; `jobs` has model and format by the file's name."""
    return {
        name: export(model, weights, folder / f"{name}.tflite", splits)
        for name, (model, weights) in jobs.items()
    }


def to_table(result):
    """Sizes and figures of a network's files."""
    table = Table(title=f"{result['title']}: {result['parameters']:,} parameters")
    table.add_column("file", no_wrap=True)
    for heading in ("raw bytes", "gzip bytes", result["measure"], "latency"):
        table.add_column(heading, justify="right")
    for row in to_cells(result):
        table.add_row(*row)
    return table


def to_cells(result):
    """The rows of the table as text; of refused files the name and a word."""
    yield "MLPerf Tiny's int8", f"{result['reference bytes']:,}", "", "", ""
    yield ".sws", f"{result['sws bytes']:,}", "", f"{result['figure']:.2%}", ""
    for name, row in result["rows"].items():
        if "refused" in row:
            yield name, "refused", "", "", ""
            continue
        figures = [
            f"{row[k]:.2%}" if k == "figure" else f"{row[k]:.2f}"
            for k in ("figure", "latency")
            if k in row
        ]
        yield name, f"{row['raw']:,}", f"{row['gzip']:,}", *figures


def to_notes(result):
    """Why files were refused, and what exports warned of; one line for the same of several."""
    notes = collections.defaultdict(list)
    for name, row in result["rows"].items():
        if "refused" in row:
            notes["refused: " + shorten(row["refused"])].append(name)
        for remark in row.get("remarks", ()):
            notes["warning: " + shorten(remark)].append(name)
    return [f"{', '.join(names)}: {note}" for note, names in notes.items()]


def shorten(message):
    """The first sentence, or what comes before the advice; of long lists the first entry."""
    head, refused, _ = message.partition(" Nothing was written.")
    head = head if refused else message.partition(". ")[0] + "."
    return re.sub(r"\[([^],]+),[^]]*\]", r"[\1, ...]", head)


def main():
    """Takes the networks the whole way, and prints a table of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--models", type=pathlib.Path, required=True, help="folder of the Keras files")
    add("--data", type=pathlib.Path, help="CIFAR-10 as an .npz file; else it is downloaded")
    add("--nets", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which networks")
    add("--output", type=pathlib.Path, help="folder for the files; else they are not kept")
    add("--quick", action="store_true", help="few examples and epochs, to try it out")
    add("--codebook", choices=["free", "uniform"], default="free", help="values of a kernel")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.nets:
            folder = (arguments.output or pathlib.Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            with console.status(f"{name}: training, exporting, measuring"):
                result = run(
                    NETWORKS[name],
                    arguments.models,
                    folder,
                    cifar10=functools.partial(load_cifar10, arguments.data),
                    quick=arguments.quick,
                    codebook=arguments.codebook,
                )
            console.print(to_table(result))
            for note in to_notes(result):
                console.print(note, markup=False)


if __name__ == "__main__":
    main()
