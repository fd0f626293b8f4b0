"""Runs tfmot's pruning, clustering and quantization for litert_benchmark.py, on tf_keras.

python litert_benchmark_tfmot.py DENSE_AND_DATA.npz OUT.tflite
"""

import os
import pathlib
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
    cluster as experimental,
)

SPARSITY, NUM_CLUSTERS, BATCH_SIZE = 0.8, 16, 64
PRUNE_EPOCHS, CLUSTER_EPOCHS, QUANTIZE_EPOCHS = 40, 15, 5


def build_model():
    """The network of quickstart.py."""
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def fit(model, data, epochs, rate, callbacks=()):
    """Trains with a rate that falls to zero."""
    steps = epochs * -(-len(data[0]) // BATCH_SIZE)
    model.compile(
        tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(rate, steps)),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def main():
    """Prune, cluster, quantize, convert, each keeping what came before."""
    source, target = map(pathlib.Path, sys.argv[1:])
    with np.load(source) as file:
        data = file["x"], file["y"]
        weights = [file[name] for name in sorted(file.files) if name.startswith("w")]
    tf_keras.utils.set_random_seed(0)
    model = build_model()
    model.set_weights(weights)
    steps = PRUNE_EPOCHS * -(-len(data[0]) // BATCH_SIZE)
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, SPARSITY, 0, int(0.6 * steps))
    model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    fit(model, data, PRUNE_EPOCHS, 1e-3, [tfmot.sparsity.keras.UpdatePruningStep()])
    model = experimental.cluster_weights(
        tfmot.sparsity.keras.strip_pruning(model),
        number_of_clusters=NUM_CLUSTERS,
        cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=True,
    )
    model = tfmot.clustering.keras.strip_clustering(fit(model, data, CLUSTER_EPOCHS, 1e-4))
    quantization = tfmot.quantization.keras
    model = quantization.quantize_apply(
        quantization.quantize_annotate_model(model),
        tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(),
    )
    fit(model, data, QUANTIZE_EPOCHS, 1e-4)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    target.write_bytes(converter.convert())


if __name__ == "__main__":
    main()
