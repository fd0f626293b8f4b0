"""The main job in one file: pretrain, wrap, fit, strip, report, export, run.

    python examples/quickstart.py

Real handwritten digits (8 x 8 pixels, 1,797 images) that ship inside scikit-learn; nothing
is downloaded. It takes under two minutes on two cores.
"""

import argparse
import gzip
import os
import pathlib
import time

# TensorFlow's start-up messages say nothing that is needed here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfmot_sws as sws

SEED = 0
PRETRAIN_EPOCHS = 40
SHARE_EPOCHS = 60
BATCH_SIZE = 64
PRETRAIN_LEARNING_RATE, SHARE_LEARNING_RATE = 1e-3, 8e-3


def load_data():
    """Images in [0, 1], shape (n, 8, 8, 1), and labels; a third is kept for the test."""
    digits = load_digits()
    images = (digits.images[..., None] / 16.0).astype("float32")
    return train_test_split(
        images, digits.target, test_size=1 / 3, random_state=SEED, stratify=digits.target
    )


def build_model(keras=keras):
    """A small convolutional network; built by Keras 3 or, if given, tf_keras."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def compile_model(model, num_steps, learning_rate):
    """Compiles as one would any classifier; the learning rate falls to zero."""
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def measure_accuracy(model, x, y):
    """Share of right answers, 0 to 1."""
    return float(np.mean(model.predict(x, verbose=0).argmax(-1) == y))


def main():
    """Runs the job and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, help="folder for the files")
    output = parser.parse_args().output
    console = Console()
    keras.utils.set_random_seed(SEED)
    x_train, x_test, y_train, y_test = load_data()

    console.print("[bold]1. A dense network, trained as usual")
    dense = build_model()
    steps = -(-len(x_train) // BATCH_SIZE)
    compile_model(dense, PRETRAIN_EPOCHS * steps, PRETRAIN_LEARNING_RATE)
    dense.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=PRETRAIN_EPOCHS, verbose=0)
    accuracy = {"dense": measure_accuracy(dense, x_test, y_test)}
    dense_tflite = sws.convert_to_tflite(dense)

    console.print("[bold]2. Wrapped, and trained on with the mixture prior")
    shared = sws.apply_soft_weight_sharing(dense)
    compile_model(shared, SHARE_EPOCHS * steps, SHARE_LEARNING_RATE)
    start = time.perf_counter()
    with console.status(f"{SHARE_EPOCHS} epochs"):
        history = shared.fit(
            x_train,
            y_train,
            batch_size=BATCH_SIZE,
            epochs=SHARE_EPOCHS,
            callbacks=[sws.AnnealAndMerge()],
            verbose=0,
        ).history
    seconds = time.perf_counter() - start
    console.print(_course(history))
    accuracy["while training"] = measure_accuracy(shared, x_test, y_test)

    console.print("[bold]3. Stripped: a plain Keras model again")
    small = sws.strip_soft_weight_sharing(shared)
    accuracy["stripped"] = measure_accuracy(small, x_test, y_test)
    report = sws.compression_report(small)
    report.print(console)

    console.print("[bold]4. Exported to LiteRT, and run there")
    tflite = sws.convert_to_tflite(small, sample=x_test[:8])
    logits = sws.predict_tflite(tflite, x_test)
    accuracy["LiteRT"] = float(np.mean(logits.argmax(-1) == y_test))

    console.print(_summary(accuracy, dense_tflite, tflite, report, seconds))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        small.save(output / "digits.keras")
        sws.save_compressed(small, output / "digits.sws")
        (output / "digits.tflite").write_bytes(tflite)
        console.print(f"Written to {output.resolve()}")


def _course(history):
    """What the logs of `fit` say, every tenth epoch."""
    names = ("error_loss", "accuracy", "num_components", "zeros", "bits_per_weight")
    table = Table("epoch", *(name.replace("_", " ") for name in names))
    for epoch in (0, *range(9, SHARE_EPOCHS, 10)):
        table.add_row(str(epoch + 1), *(f"{history[name][epoch]:.3g}" for name in names))
    return table


def _summary(accuracy, dense_tflite, tflite, report, seconds):
    table = Table(title=f"Digits, test set (retraining took {seconds:.0f} s)")
    for heading in ("", "accuracy", ".tflite bytes", "gzip bytes", ".sws bytes"):
        table.add_column(heading, justify="right")
    files = {"dense": dense_tflite, "LiteRT": tflite}
    for stage, value in accuracy.items():
        file = files.get(stage)
        sizes = [f"{len(file):,}", f"{len(gzip.compress(file, 9)):,}"] if file else ["", ""]
        coded = f"{report.coded_bytes:,}" if stage == "stripped" else ""
        table.add_row(stage, f"{value:.2%}", *sizes, coded)
    return table


if __name__ == "__main__":
    main()
