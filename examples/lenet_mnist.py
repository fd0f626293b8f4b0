"""The networks of the paper on full MNIST, from scratch to a .tflite file.

    python examples/lenet_mnist.py --net lenet-300-100
    python examples/lenet_mnist.py --net lenet-5-caffe --data mnist.npz --epochs 40

Everything is written to `--output` (default: runs/NET). A run that was stopped goes on
where it stood when the same command is given again. The last 5,000 training images are for
validation; the 10,000 test images are looked at once, at the end.
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

import tfmot_sws as sws

NUM_VALIDATION = 5_000
PRETRAIN_EPOCHS = {"lenet-300-100": 20, "lenet-5-caffe": 12, "tutorial": 12}
SHARE_EPOCHS = {"lenet-300-100": 40, "lenet-5-caffe": 25, "tutorial": 20}
PRETRAIN_BATCH, SHARE_BATCH = 128, 512
PRETRAIN_RATE, SHARE_RATE = 1e-3, 8e-3
# Share of the steps in which the rate rises: a jump to so high a one throws away, on some
# networks with convolutions, what pretraining had found.
SHARE_WARMUP = 0.15


def lenet_300_100(keras=keras):
    """784-300-100-10, 266,610 parameters; built by Keras 3 or, if given, tf_keras."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ],
        name="lenet_300_100",
    )


def lenet_5_caffe(keras=keras):
    """20 and 50 filters of 5 x 5, then 500-10; 431,080 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ],
        name="lenet_5_caffe",
    )


def tutorial(keras=keras):
    """The network of the paper's published tutorial, 642,460 parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(25, 5, strides=2, activation="relu"),
            layers.Conv2D(50, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ],
        name="tutorial",
    )


NETS = {"lenet-300-100": lenet_300_100, "lenet-5-caffe": lenet_5_caffe, "tutorial": tutorial}


def load_mnist(path):
    """Training, validation and test sets; images in [0, 1] of shape (n, 28, 28, 1)."""
    if path is None:
        (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
    else:
        with np.load(path) as file:
            x, y, x_test, y_test = (file[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = ((images[..., None] / 255.0).astype("float32") for images in (x, x_test))
    cut = len(x) - NUM_VALIDATION
    return (x[:cut], y[:cut]), (x[cut:], y[cut:]), (x_test, y_test)


def compile_model(model, num_steps, learning_rate, warmup=0.0):
    """Adam, its rate rising for a share of the steps and falling to zero along a cosine."""
    rising = round(warmup * num_steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate if not rising else 0.05 * learning_rate,
        num_steps - rising,
        warmup_target=learning_rate if rising else None,
        warmup_steps=rising,
    )
    model.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def one_hot(data):
    """Images, and labels as the loss takes them."""
    x, y = data
    return x, keras.utils.to_categorical(y, 10)


def measure_error(model, data):
    """Share of wrong answers, 0 to 1."""
    x, y = data
    return float(np.mean(model.predict(x, batch_size=1000, verbose=0).argmax(-1) != y))


def train(
    model,
    data,
    validation,
    folder,
    *,
    epochs,
    batch_size,
    learning_rate,
    warmup=0.0,
    callbacks=(),
):
    """Trains with a progress line an epoch, resumable at every epoch."""
    compile_model(model, epochs * -(-len(data[0]) // batch_size), learning_rate, warmup)
    backup = keras.callbacks.BackupAndRestore(folder)
    model.fit(
        *data,
        validation_data=one_hot(validation),
        validation_batch_size=1000,
        epochs=epochs,
        batch_size=batch_size,
        callbacks=[*callbacks, backup],
        verbose=2,
    )


def pretrain(net, folder, data, validation):
    """The dense network, from the folder if an earlier run left it there."""
    path = folder / "dense.keras"
    if path.exists():
        return keras.models.load_model(path)
    model = NETS[net]()
    train(
        model,
        one_hot(data),
        validation,
        folder / "backup_dense",
        epochs=PRETRAIN_EPOCHS[net],
        batch_size=PRETRAIN_BATCH,
        learning_rate=PRETRAIN_RATE,
    )
    model.save(path)
    return model


def share_weights(dense, folder, data, validation, epochs, **settings):
    """The network under soft weight-sharing, trained on labels and the dense one's answers."""
    x, y = data
    targets = sws.soft_targets(dense, x, y)
    shared = sws.apply_soft_weight_sharing(dense, **settings)
    train(
        shared,
        (x, targets),
        validation,
        folder / "backup_shared",
        epochs=epochs,
        batch_size=SHARE_BATCH,
        learning_rate=SHARE_RATE,
        warmup=SHARE_WARMUP,
        callbacks=[sws.AnnealAndMerge()],
    )
    return shared


def main():
    """Runs the job and prints what came of it."""
    args = _parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    keras.utils.set_random_seed(args.seed)
    data, validation, test = load_mnist(args.data)

    console.rule("1. Dense network")
    dense = pretrain(args.net, args.output, data, validation)
    errors = {"dense": (measure_error(dense, validation), measure_error(dense, test))}

    console.rule("2. Soft weight-sharing")
    start = time.perf_counter()
    shared = share_weights(dense, args.output, data, validation, args.epochs)
    seconds = time.perf_counter() - start
    errors["while training"] = (measure_error(shared, validation), None)

    console.rule("3. Stripped, exported, measured")
    small = sws.strip_soft_weight_sharing(shared)
    errors["stripped"] = (measure_error(small, validation), measure_error(small, test))
    small.save(args.output / "stripped.keras")
    tflite = sws.convert_to_tflite(small, sample=test[0][:8])
    (args.output / "stripped.tflite").write_bytes(tflite)
    sws.save_compressed(small, args.output / "stripped.sws")
    logits = sws.predict_tflite(tflite, test[0])
    errors["LiteRT"] = (None, float(np.mean(logits.argmax(-1) != test[1])))

    report = sws.compression_report(small)
    report.print(console)
    console.print(_error_table(args.net, errors, seconds))
    console.print(
        f"The .tflite has {len(tflite):,} bytes, {len(gzip.compress(tflite, 9)):,} gzipped."
    )
    console.print(f"Written to {args.output.resolve()}")


def _error_table(net, errors, seconds):
    table = Table(title=f"{net}, error (retraining took {seconds:.0f} s)")
    for heading in ("", "validation", "test"):
        table.add_column(heading, justify="right")
    for stage, values in errors.items():
        table.add_row(stage, *("" if value is None else f"{value:.2%}" for value in values))
    return table


def _parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=sorted(NETS), default="lenet-300-100")
    parser.add_argument("--data", type=pathlib.Path, help="mnist.npz; else it is downloaded")
    parser.add_argument("--epochs", type=int, help="epochs of soft weight-sharing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, help="folder; default runs/NET")
    args = parser.parse_args()
    args.epochs = args.epochs or SHARE_EPOCHS[args.net]
    args.output = args.output or pathlib.Path("runs") / args.net
    return args


if __name__ == "__main__":
    main()
