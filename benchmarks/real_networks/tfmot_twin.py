"""Runs tfmot's pruning and clustering on the tf_keras twin of a network; for recipes.py.

    python -m benchmarks.real_networks.tfmot_twin JOB.json

Reads the pretrained network of Keras 3 and adds what came of it to the job's file. Layers
that tfmot does not know, and small ones, stay as they are.
"""

import dataclasses
import gzip
import json
import pathlib
import sys
import time
import warnings

import numpy as np
import tf_keras
from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import (
    ClusteringRegistry,
)
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import (
    PruneRegistry,
)

import tfmot_sws as sws
from benchmarks.real_networks import NETWORKS
from benchmarks.real_networks.network import Training
from examples import tfmot_steps as steps

PRUNE_RATE, CLUSTER_RATE = 1e-3, 1e-4
# Smaller layers would leave few weights for the clusters.
SMALLEST_LAYER = 500
# Steps between two looks at the schedule; short trainings have a thousand.
PRUNING_FREQUENCY = 10


def count_kernels(layer):
    """Number of trainable weights but biases and vectors."""
    return sum(int(np.prod(w.shape)) for w in layer.trainable_weights if len(w.shape) > 1)


def is_wanted_by(registry):
    """A function that tells whether tfmot's registry knows a layer, and it is large."""
    return lambda layer: count_kernels(layer) >= SMALLEST_LAYER and registry.supports(layer)


def make_twin(network, dense):
    """The network in tf_keras, with the weights and so the outputs of the dense one."""
    twin = network.build(tf_keras)
    twin.set_weights(dense.get_weights())
    inputs = network.data()[0][0][:8]
    np.testing.assert_allclose(
        twin.predict(inputs, verbose=0), dense.predict(inputs, verbose=0), rtol=1e-3, atol=1e-3
    )
    return twin


def train(network, seed, rate, epochs):
    """A function that trains a model of the network."""
    training = Training(epochs, rate, network.tuning.batch_size)

    def run(model, callbacks=()):
        network.compile(model, training)
        network.fit(model, training, seed=seed, callbacks=callbacks)

    return run


def prune_and_cluster(network, twin, seed, sparsity):
    """Pruning for as many epochs as the others train, then clustering for half as many."""
    epochs = network.tuning.epochs
    num_steps = network.tuning.count_steps(len(network.data()[0][1]))
    pruned = steps.prune(
        twin,
        steps.rising_sparsity(num_steps, sparsity, frequency=PRUNING_FREQUENCY),
        train(network, seed, PRUNE_RATE, epochs),
        wanted=is_wanted_by(PruneRegistry),
    )
    return steps.cluster(
        pruned,
        train(network, seed, CLUSTER_RATE, max(1, epochs // 2)),
        preserve_sparsity=True,
        wanted=is_wanted_by(ClusteringRegistry),
    )


def measure_sizes(model, sample):
    """Bytes under gzip of the weights and, where it converts, of the .tflite file.

    `sample` is what the file is checked on; LiteRT does not turn bytes into numbers.
    """
    sample = sample.astype(model.inputs[0].dtype.as_numpy_dtype)
    raw = b"".join(weight.tobytes() for weight in model.get_weights())
    sizes = {"gzip weights": len(gzip.compress(raw, 9))}
    try:
        tflite = sws.convert_to_tflite(model, sample=sample)
    except sws.ExportError as error:
        sizes["not converted"] = str(error).partition("\n")[0]
    else:
        sizes["gzip .tflite"] = len(gzip.compress(tflite, 9))
    return sizes


def run(network, seed, sparsity, cache):
    """The figures of one sparsity; the smaller of the two files counts."""
    twin = make_twin(network, network.dense(seed, cache))
    total = sum(map(count_kernels, twin.layers))
    wrapped = sum(map(count_kernels, filter(is_wanted_by(ClusteringRegistry), twin.layers)))
    start = time.perf_counter()
    small = prune_and_cluster(network, twin, seed, sparsity)
    seconds = time.perf_counter() - start
    sizes = measure_sizes(small, network.data()[0][0][:8])
    return {
        "bytes": min(size for size in sizes.values() if isinstance(size, int)),
        "validation error": network.metric(small, "validation"),
        "test error": network.metric(small, "test"),
        "seconds": seconds,
        "share of kernels clustered": wrapped / total,
        **sizes,
    }


def main():
    """Runs the job of a file."""
    path = pathlib.Path(sys.argv[1])
    job = json.loads(path.read_text())
    # BatchNorm scales clusters in the float file; of the two files the smaller counts.
    warnings.filterwarnings("ignore", "BatchNorm layers")
    steps.silence_remarks()
    network = NETWORKS[job["network"]]
    if job["examples"]:
        network = network.shorten(job["examples"])
    tuning = dataclasses.replace(network.tuning, epochs=job["epochs"])
    network = dataclasses.replace(network, tuning=tuning)
    cache = pathlib.Path(job["cache"])
    job["figures"] = run(network, job["seed"], job["sparsity"], cache)
    path.write_text(json.dumps(job))


if __name__ == "__main__":
    main()
