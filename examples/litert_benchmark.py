"""What each .tflite format costs and gains: accuracy, size, latency.

    python examples/litert_benchmark.py
    python examples/litert_benchmark.py --model stripped.keras --data mnist.npz

Without arguments it trains a small convolutional network on scikit-learn's digits, shares its
weights, and adds rows for tfmot's pruning, clustering and quantization of the same dense
network and for Keras' `quantize("int8")`. With `--model` it takes a stripped model, and the
images and labels `x_test`, `y_test` (and `x_train` for calibration) of an .npz file.
It takes about three minutes on two cores.
"""

import argparse
import functools
import gzip
import os
import pathlib
import warnings

# TensorFlow's start-up messages say nothing that is needed here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import mlperf_tiny
import numpy as np
import quickstart
import tf_keras
import tfmot_steps
from rich.console import Console
from rich.table import Table

import tfmot_sws as sws
from tfmot_sws.litert import tflm
from tfmot_sws.litert.export import FORMATS

SEED = 0
PRETRAIN_EPOCHS, SHARE_EPOCHS = 30, 60
# Of tfmot's steps.
SPARSITY = 0.8
PRUNE_EPOCHS, CLUSTER_EPOCHS, QUANTIZE_EPOCHS = 40, 15, 5
LATENCY_ROUNDS, RUNS_A_ROUND = 40, 25


def train():
    """The dense network and its stripped copy, with the data."""
    x_train, x_test, y_train, y_test = quickstart.load_data()
    steps = -(-len(x_train) // quickstart.BATCH_SIZE)
    dense = quickstart.build_model()
    quickstart.compile_model(dense, PRETRAIN_EPOCHS * steps, learning_rate=1e-3)
    dense.fit(
        x_train, y_train, batch_size=quickstart.BATCH_SIZE, epochs=PRETRAIN_EPOCHS, verbose=0
    )
    # The wrapper trains the model that it is given.
    shared = sws.apply_soft_weight_sharing(copy_of(dense))
    quickstart.compile_model(shared, SHARE_EPOCHS * steps, learning_rate=2e-3)
    shared.fit(
        x_train,
        y_train,
        batch_size=quickstart.BATCH_SIZE,
        epochs=SHARE_EPOCHS,
        callbacks=[sws.AnnealAndMerge()],
        verbose=0,
    )
    data = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    return dense, sws.strip_soft_weight_sharing(shared), data


def copy_of(model):
    """A model of its own with the same weights."""
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


def load_data(path, model):
    """Arrays of an .npz file; images as bytes become floats in [0, 1] of the model's shape."""
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    for name in ("x_train", "x_test"):
        if data[name].dtype == np.uint8:
            data[name] = data[name].astype("float32") / 255
        data[name] = data[name].reshape(-1, *model.input_shape[1:])
    return data


def convert(model, weights, data):
    """The bytes of a file, or in words why there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return sws.convert_to_tflite(
                model, weights, representative_data=data["x_train"], sample=data["x_test"][:64]
            )
    except (ImportError, sws.ExportError, ValueError) as error:
        return " ".join(str(error).split())[:160]


def quantize_by_keras(dense, data):
    """Keras' own int8 of the dense network: int8 weights, activations scaled on the fly."""
    model = copy_of(dense)
    with warnings.catch_warnings():
        # Keras warns of each layer that has no weights to quantize.
        warnings.simplefilter("ignore", UserWarning)
        model.quantize("int8")
    return convert(model, "float32", data)


def run_tfmot(dense, data):
    """The file after tfmot's pruning, clustering and quantization, each keeping the last."""
    keras.utils.set_random_seed(SEED)
    model = quickstart.build_model(tf_keras)
    model.set_weights(dense.get_weights())
    num_steps = PRUNE_EPOCHS * -(-len(data["x_train"]) // quickstart.BATCH_SIZE)
    schedule = tfmot_steps.rising_sparsity(num_steps, SPARSITY, initial=0.0)
    model = tfmot_steps.prune(model, schedule, training_on(data, PRUNE_EPOCHS, 1e-3))
    training = training_on(data, CLUSTER_EPOCHS, 1e-4)
    model = tfmot_steps.cluster(model, training, preserve_sparsity=True)
    model = tfmot_steps.quantize_aware(model, training_on(data, QUANTIZE_EPOCHS, 1e-4))
    return tfmot_steps.convert_quantized(model)


def training_on(data, epochs, rate):
    """A function that trains a model of tf_keras with a rate that falls to zero."""
    return functools.partial(
        tfmot_steps.fit,
        data=(data["x_train"], data["y_train"]),
        epochs=epochs,
        rate=rate,
        batch_size=quickstart.BATCH_SIZE,
    )


def main():
    """Makes every file, measures it, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, help="a stripped .keras model")
    parser.add_argument("--data", type=pathlib.Path, help="an .npz file with x_test, y_test")
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.data is None):
        parser.error("--model and --data go together")
    keras.utils.set_random_seed(SEED)
    tfmot_steps.silence_remarks()
    console = Console()
    files = {}
    with console.status("Training and converting"):
        if arguments.model:
            small = keras.models.load_model(arguments.model, compile=False)
            data = load_data(arguments.data, small)
        else:
            dense, small, data = train()
            files["dense, float32"] = convert(dense, "float32", data)
            files["dense, int8"] = convert(dense, "int8", data)
        files |= {weights: convert(small, weights, data) for weights in FORMATS}
        if not arguments.model:
            files["tfmot prune, cluster, QAT"] = run_tfmot(dense, data)
            files["Keras quantize('int8')"] = quantize_by_keras(dense, data)
    console.print(to_table(files, data))
    for name, file in files.items():
        if isinstance(file, str):
            console.print(f"{name}: {file}", markup=False)


def to_table(files, data):
    """One row a file."""
    # Look-up tables run in TensorFlow Lite Micro only, which is not built for speed here.
    timed = {k: f for k, f in files.items() if isinstance(f, bytes) and k != "tflm"}
    latency = mlperf_tiny.measure_latency(
        timed, data["x_test"][:1], LATENCY_ROUNDS, RUNS_A_ROUND
    )
    table = Table(title=f"{len(data['x_test']):,} test images, batch 1, median of many runs")
    table.add_column("format", no_wrap=True)
    for heading in ("accuracy", "raw bytes", "gzip bytes", "latency"):
        table.add_column(heading, justify="right")
    for name, file in files.items():
        if isinstance(file, str):
            table.add_row(name, *4 * ["none"])
            continue
        cost = f"{latency[name] / latency['float32']:.2f}" if name in latency else "-"
        gzipped = len(gzip.compress(file, 9))
        accuracy = measure_accuracy(file, data)
        table.add_row(name, f"{accuracy:.2%}", f"{len(file):,}", f"{gzipped:,}", cost)
    return table


def measure_accuracy(file, data):
    """Share of right answers, 0 to 1."""
    if tflm.is_tflm(file):
        (outputs,) = tflm.predict(file, data["x_test"])
    else:
        outputs = sws.predict_tflite(file, data["x_test"])
    return float(np.mean(outputs.argmax(-1) == data["y_test"]))


if __name__ == "__main__":
    main()
