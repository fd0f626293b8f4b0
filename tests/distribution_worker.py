"""Trains one small wrapped model on an engine of Keras, in a process of its own.

    python tests/distribution_worker.py ENGINE OUTPUT.npz [PROCESS PORT]

ENGINE: one of ENGINES below. Written are all variables after training (`state/...`), the logs
(`logs/loss`) and the stripped weights (`strip/...`). But for the engine `single`, training is
killed half-way and resumed. Several processes each get their number and the coordinator's port.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

ENGINE, OUTPUT = sys.argv[1], pathlib.Path(sys.argv[2])
PROCESS, PORT = (int(sys.argv[3]), int(sys.argv[4])) if len(sys.argv) > 3 else (0, 0)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if ENGINE == "data_parallel":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
if ENGINE == "multi_worker":
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": [f"127.0.0.1:{PORT}", f"127.0.0.1:{PORT + 1}"]},
            "task": {"type": "worker", "index": PROCESS},
        }
    )

import keras
import numpy as np
import tensorflow as tf
from families import GENTLE

import tfmot_sws as sws

BATCH = 16


def mirrored() -> Any:
    """Two replicas on two logical devices of this machine."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope


def multi_worker() -> Any:
    """One replica in each of two processes."""
    return tf.distribute.MultiWorkerMirroredStrategy().scope


def data_parallel() -> Any:
    """Two replicas on two devices that XLA was told to make of one CPU."""
    distribution = keras.distribution.DataParallel()
    assert distribution.device_mesh.shape == (2,), distribution.device_mesh
    keras.distribution.set_distribution(distribution)
    return contextlib.nullcontext


def processes() -> Any:
    """One replica in each of two processes; they meet on this machine's loopback."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(f"127.0.0.1:{PORT}", num_processes=2, process_id=PROCESS)
    return data_parallel()


ENGINES: dict[str, Callable[[], Any]] = {
    "single": lambda: contextlib.nullcontext,
    "mirrored": mirrored,
    "multi_worker": multi_worker,
    "data_parallel": data_parallel,
    "processes": processes,
}


def examples() -> tuple[np.ndarray, np.ndarray]:
    """A linear regression in ten dimensions."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((128, 10)).astype("float32")
    return x, x @ generator.standard_normal((10, 3)).astype("float32")


def build() -> keras.Model:
    """More than 4,096 weights, so that the prior's table is used."""
    return keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )


def wrap(scope: Any) -> sws.SoftWeightSharing:
    keras.utils.set_random_seed(1)
    with scope():
        shared = sws.apply_soft_weight_sharing(build(), **GENTLE)
        # It feels the scale of gradients, unlike Adam, and has a state, unlike plain SGD.
        shared.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    return shared


def fit(shared: sws.SoftWeightSharing, *callbacks: Any, epochs: int = 4) -> Any:
    # Of several processes each takes its part of every batch, which Keras sees to for
    # a tf.data.Dataset only.
    data = tf.data.Dataset.from_tensor_slices(examples()).batch(BATCH)
    return shared.fit(
        data,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[sws.AnnealAndMerge(), *callbacks],
    ).history


def record(shared: sws.SoftWeightSharing, history: Any) -> dict[str, np.ndarray]:
    plain = sws.strip_soft_weight_sharing(shared)
    numpy = keras.ops.convert_to_numpy
    results = {f"logs/{key}": np.asarray(value) for key, value in history.items()}
    for kind, variables in (("state", shared.variables), ("strip", plain.variables)):
        for i, variable in enumerate(variables):
            results[f"{kind}/{i:02d}_{variable.name}"] = numpy(variable)
    return results


class Killed(keras.callbacks.Callback):
    """Ends the training after the second epoch as Ctrl-C does."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise KeyboardInterrupt


def interrupted(scope: Any, folder: pathlib.Path) -> Any:
    """The same training, killed after two epochs and taken up by a new model."""
    with contextlib.suppress(KeyboardInterrupt):
        fit(wrap(scope), keras.callbacks.BackupAndRestore(folder), Killed())
    assert any(folder.iterdir()), "no backup was written"
    shared = wrap(scope)
    history = fit(shared, keras.callbacks.BackupAndRestore(folder))
    assert len(history["loss"]) == 2, "it did not resume at the third epoch"
    return shared, history


def main() -> None:
    scope = ENGINES[ENGINE]()
    # Uninterrupted on one device is what an interrupted run on many has to equal.
    if ENGINE == "single":
        shared = wrap(scope)
        history = fit(shared)
    else:
        with tempfile.TemporaryDirectory() as folder:
            shared, history = interrupted(scope, pathlib.Path(folder))
    np.savez(OUTPUT, **record(shared, history))


if __name__ == "__main__":
    main()
