"""Runs tfmot's pruning and clustering for compression.py, on tf_keras.

    python tfmot_pipeline.py NET DENSE.npz SPLITS.npz RESULTS.json

Prune with a polynomial schedule, strip, cluster into 16 values with the
zeros kept, strip, convert to .tflite, gzip, as the guides of tfmot do.
"""

import gzip
import json
import os
import pathlib
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

HERE = pathlib.Path(__file__).resolve().parent
# As in compression.py, which JAX must not find in place of the standard module.
sys.path[:] = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE]

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
    cluster as experimental,
)

sys.path.insert(0, str(HERE.parent / "examples"))

import lenet_mnist as lenet

SPARSITIES = (0.90,)
NUM_CLUSTERS = 16
PRUNE_EPOCHS, CLUSTER_EPOCHS = 8, 4
BATCH_SIZE = 128


def fit(model, data, epochs, rate, callbacks=()):
    """Trains with a rate that falls to zero, as our own recipe does."""
    steps = epochs * -(-len(data[0]) // BATCH_SIZE)
    model.compile(
        tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(rate, steps)),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=list(callbacks))


def prune(model, data, sparsity):
    """Magnitude pruning to a sparsity, from half of it, over the first 60 % of training."""
    steps = PRUNE_EPOCHS * -(-len(data[0]) // BATCH_SIZE)
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.5, sparsity, 0, int(0.6 * steps))
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    fit(wrapped, data, PRUNE_EPOCHS, 1e-3, [tfmot.sparsity.keras.UpdatePruningStep()])
    return tfmot.sparsity.keras.strip_pruning(wrapped)


def cluster(model, data):
    """Clustering that keeps the zeros."""
    wrapped = experimental.cluster_weights(
        model,
        number_of_clusters=NUM_CLUSTERS,
        cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=True,
    )
    fit(wrapped, data, CLUSTER_EPOCHS, 1e-4)
    return tfmot.clustering.keras.strip_clustering(wrapped)


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
