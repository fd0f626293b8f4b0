"""Soft weight-sharing as one step among those of tfmot, Keras and the AI Edge Quantizer.

    python examples/tfmot_pipelines.py
    python examples/tfmot_pipelines.py --pipeline quantize

All pipelines start from the same pretrained network:

- prune: tfmot's pruning, then soft weight-sharing that keeps its zeros (tf_keras);
- quantize: soft weight-sharing, then tfmot's quantization-aware training that keeps the
  clusters (CQAT), and the one that keeps clusters and zeros (PCQAT; tf_keras);
- keras3: soft weight-sharing, then `quantize("int8")` of Keras 3, and the AI Edge Quantizer.

The data are the handwritten digits that ship inside scikit-learn. tf_keras and Keras 3 live
in one process: tfmot takes models of the former, and soft weight-sharing either.
"""

import argparse
import contextlib
import functools
import gzip
import io
import os
import pathlib
import tempfile
import warnings

# TensorFlow's start-up messages say nothing that is needed here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
import tfmot_steps as steps
from ai_edge_quantizer import quantizer, recipe
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfmot_sws as sws

# Keras says of every layer without weights that `quantize` leaves it as it is.
warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")

SEED = 0
BATCH_SIZE = 32
SPARSITY = 0.6
# Of pretraining, and of each step after it.
PRETRAIN_EPOCHS, STEP_EPOCHS = 20, 30
QUICK_EPOCHS = 4, 8


def load_data():
    """Images in [0, 1], shape (n, 8, 8, 1), and labels; a third is kept for the test."""
    digits = load_digits()
    images = (digits.images[..., None] / 16.0).astype("float32")
    return train_test_split(
        images, digits.target, test_size=1 / 3, random_state=SEED, stratify=digits.target
    )


def build_model(library):
    """A small convolutional network of Keras 3 or of tf_keras."""
    layers = library.layers
    return library.Sequential(
        [
            library.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


def train(model, data, epochs, rate, callbacks=()):
    """Trains a model of either library, always from the same seed."""
    return steps.fit(
        model, data, epochs, rate, batch_size=BATCH_SIZE, callbacks=callbacks, seed=SEED
    )


# The steps: each takes a plain model, and gives one back.


def prune(model, data, epochs):
    """tfmot's magnitude pruning."""
    schedule = tfmot.sparsity.keras.ConstantSparsity(SPARSITY, begin_step=0, frequency=20)
    training = functools.partial(train, data=data, epochs=epochs, rate=1e-3)
    return steps.prune(steps.copy_model(model), schedule, training)


def share(model, data, epochs, **settings):
    """Soft weight-sharing, of a Keras 3 or a tf_keras model."""
    shared = sws.apply_soft_weight_sharing(model, **settings)
    train(shared, data, epochs, 2e-3, [sws.AnnealAndMerge()])
    # What comes after it trains on.
    return sws.strip_soft_weight_sharing(shared, keep_statistics=True)


def quantize_aware(model, data, epochs, preserve_sparsity):
    """The .tflite file after tfmot's quantization-aware training that keeps clusters."""
    training = functools.partial(train, data=data, epochs=epochs, rate=1e-4)
    quantized = steps.quantize_aware(
        steps.copy_model(model), training, preserve_sparsity=preserve_sparsity
    )
    return steps.convert_quantized(quantized)


def to_row(name, tflite, test):
    """Everything about a .tflite file, by running and by reading it."""
    logits = sws.predict_tflite(tflite, test[0])
    accuracy = steps.measure_accuracy(logits, test[1])
    return name, accuracy, *steps.count(tflite), tflite


# The pipelines, as rows of the table.


def run_prune(dense, data, test, epochs):
    """Pruning by tfmot, and soft weight-sharing with those zeros kept."""
    pruned = prune(dense, data, epochs)
    yield to_row("tfmot prune", sws.convert_to_tflite(pruned), test)
    small = share(steps.copy_model(pruned), data, epochs, preserve_sparsity=True)
    yield to_row("tfmot prune, ours", sws.convert_to_tflite(small), test)


def run_quantize(dense, data, test, epochs):
    """Soft weight-sharing, and both of tfmot's trainings that keep its clusters."""
    small = share(steps.copy_model(dense), data, epochs)
    yield to_row("ours", sws.convert_to_tflite(small), test)
    for preserve_sparsity in (False, True):
        name = "ours, tfmot PCQAT" if preserve_sparsity else "ours, tfmot CQAT"
        tflite = quantize_aware(small, data, max(epochs // 5, 1), preserve_sparsity)
        yield to_row(name, tflite, test)


def run_keras3(dense, data, test, epochs):
    """Soft weight-sharing of the same network in Keras 3, and its int8 quantizations."""
    model = build_model(keras)
    model.set_weights(dense.get_weights())
    small = share(model, data, epochs)
    tflite = sws.convert_to_tflite(small)
    yield to_row("ours, Keras 3", tflite, test)
    with contextlib.redirect_stdout(io.StringIO()):
        job = quantizer.Quantizer(tflite, recipe.dynamic_wi8_afp32())
        edge = bytes(job.quantize().quantized_model)
    yield to_row("ours, Edge Quantizer", edge, test)
    yield quantize_in_keras(small, test)


def quantize_in_keras(model, test):
    """`quantize("int8")`: its file is a .keras file, for LiteRT has no such operator."""
    model.quantize("int8")
    accuracy = steps.measure_accuracy(model.predict(test[0], verbose=0), test[1])
    # The kernels of Dense layers are integers now, with a scale for each column.
    kernels = [np.asarray(w) for w in model.weights if w.path.endswith("/kernel")]
    values = max(
        max(np.unique(column).size for column in k.T)
        if k.dtype == np.int8
        else np.unique(k).size
        for k in kernels
    )
    zeros = sum(np.sum(k == 0) for k in kernels) / sum(k.size for k in kernels)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return (
            "ours, quantize, .keras",
            accuracy,
            values,
            zeros,
            path.read_bytes(),
        )


PIPELINES = {"prune": run_prune, "quantize": run_quantize, "keras3": run_keras3}


def main():
    """Pretrains, runs the pipelines, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipeline", choices=sorted(PIPELINES), help="default: all")
    parser.add_argument("--quick", action="store_true", help="few epochs, for a first look")
    args = parser.parse_args()
    pretrain_epochs, epochs = QUICK_EPOCHS if args.quick else (PRETRAIN_EPOCHS, STEP_EPOCHS)
    x_train, x_test, y_train, y_test = load_data()
    data, test = (x_train, y_train), (x_test, y_test)
    console = Console()
    steps.silence_remarks()

    tf_keras.utils.set_random_seed(SEED)
    dense = train(build_model(tf_keras), data, pretrain_epochs, 1e-3)
    rows = [to_row("dense", sws.convert_to_tflite(dense), test)]
    for name in [args.pipeline] if args.pipeline else PIPELINES:
        with console.status(f"pipeline {name}"):
            rows += PIPELINES[name](dense, data, test, epochs)
    console.print(_table(rows))


def _table(rows):
    table = Table(box=SIMPLE, title=f"Digits, test set; tfmot prunes to {SPARSITY:.0%} zeros")
    for heading in ("", "accuracy", "values", "zeros", "bytes", "gzip"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, accuracy, values, zeros, file in rows:
        sizes = len(file), len(gzip.compress(file, 9))
        cells = f"{accuracy:.2%}", f"{values:,}", f"{zeros:.1%}", *(f"{n:,}" for n in sizes)
        table.add_row(name, *cells)
    table.caption = "values: the most in one kernel, or in one channel of it if it is int8"
    return table


if __name__ == "__main__":
    main()
