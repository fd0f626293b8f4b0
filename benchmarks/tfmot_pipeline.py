"""Runs tfmot's pruning and clustering for compression.py, on tf_keras.

    python -m benchmarks.tfmot_pipeline NET DENSE.npz SPLITS.npz RESULTS.json

Prune with a polynomial schedule, strip, cluster into 16 values with the
zeros kept, strip, convert to .tflite, gzip, as the guides of tfmot do.
"""

import functools
import gzip
import json
import os
import pathlib
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tf_keras

from examples import lenet_mnist as lenet
from examples import tfmot_steps as steps

SPARSITIES = (0.90,)
PRUNE_EPOCHS, CLUSTER_EPOCHS = 8, 4
BATCH_SIZE = 128


def prune(model, data, sparsity):
    """The model after tfmot's pruning to a sparsity."""
    num_steps = PRUNE_EPOCHS * -(-len(data[0]) // BATCH_SIZE)
    training = training_on(data, PRUNE_EPOCHS, 1e-3)
    return steps.prune(model, steps.rising_sparsity(num_steps, sparsity), training)


def cluster(model, data):
    """The model after tfmot's clustering that keeps the zeros."""
    training = training_on(data, CLUSTER_EPOCHS, 1e-4)
    return steps.cluster(model, training, preserve_sparsity=True)


def training_on(data, epochs, rate):
    """A function that trains a model with a rate that falls to zero."""
    return functools.partial(
        steps.fit, data=data, epochs=epochs, rate=rate, batch_size=BATCH_SIZE
    )


def to_record(model, sparsity, validation, test):
    """Error and size of a finished model."""
    tflite = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    weights = np.concatenate([np.ravel(w) for w in model.get_weights()])
    return {
        "setting": f"sparsity {sparsity}",
        "bytes": len(gzip.compress(tflite, 9)),
        "validation error": lenet.measure_error(model, validation),
        "test error": lenet.measure_error(model, test),
        "non-zero": float(np.mean(weights != 0)),
    }


def main():
    """Runs the pipeline for each sparsity."""
    net, dense, arrays, results = sys.argv[1:]
    with np.load(dense) as file:
        weights = [file[name] for name in file.files]
    with np.load(arrays) as file:
        parts = [file[name] for name in file.files]
    data, validation, test = parts[:2], parts[2:4], parts[4:]
    records = []
    for sparsity in SPARSITIES:
        tf_keras.utils.set_random_seed(0)
        model = next(f for f in lenet.NETS.values() if f.__name__ == net)(tf_keras)
        model.set_weights(weights)
        try:
            small = cluster(prune(model, data, sparsity), data)
        except tf.errors.InvalidArgumentError as error:
            # tfmot cannot cluster a tensor with fewer non-zero weights than clusters.
            print(f"sparsity {sparsity}: {error.message[:80]}", flush=True)
            continue
        records.append(to_record(small, sparsity, validation, test))
        print(records[-1], flush=True)
    pathlib.Path(results).write_text(json.dumps(records))


if __name__ == "__main__":
    main()
