"""The steps of tfmot, for the examples and benchmarks that run them before or after ours.

A step wraps the layers of the model that it is given (pass a copy to keep that), calls
`train(model, callbacks=...)`, and gives back a plain model. Models are of tf_keras.
"""

import contextlib
import io
import warnings

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
    cluster as experimental,
)

from tfmot_sws.litert.report import tflite_report

NUM_CLUSTERS = 16


def silence_remarks():
    """Keeps what says nothing here from the terminal, for the rest of the process.

    tfmot trains copies of the kernels, and tf_keras remarks at every start that the kernels
    themselves have no gradient; the converter, that ranges come from the training.
    """
    tf.get_logger().setLevel("ERROR")
    warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")


def fit(model, data, epochs, rate, *, batch_size, callbacks=(), seed=None):
    """Trains a classifier of Keras 3 or tf_keras with a rate that falls to zero."""
    library = tf_keras if isinstance(model, tf_keras.Model) else keras
    if seed is not None:
        library.utils.set_random_seed(seed)
    steps = epochs * -(-len(data[0]) // batch_size)
    model.compile(
        library.optimizers.Adam(library.optimizers.schedules.CosineDecay(rate, steps)),
        library.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def copy_model(model):
    """An equal model with variables of its own, since every step trains what it is given."""
    clone = tf_keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def wrap_layers(model, wrap, wanted=None):
    """A model whose layers are wrapped: all of them, or those for which `wanted` is true."""
    if wanted is None:
        return wrap(model)
    return tf_keras.models.clone_model(
        model, clone_function=lambda layer: wrap(layer) if wanted(layer) else layer
    )


def rising_sparsity(num_steps, sparsity, *, initial=0.5, frequency=100):
    """A schedule that reaches a sparsity, 0 to 1, after 60 % of the training's steps."""
    return tfmot.sparsity.keras.PolynomialDecay(
        initial, sparsity, begin_step=0, end_step=int(0.6 * num_steps), frequency=frequency
    )


def prune(model, schedule, train, wanted=None):
    """Magnitude pruning along a schedule."""
    pruned = wrap_for_pruning(model, schedule, wanted)
    train(pruned, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    return tfmot.sparsity.keras.strip_pruning(pruned)


def wrap_for_pruning(model, schedule, wanted=None):
    """A model that prunes its layers while `UpdatePruningStep` counts the steps."""
    return wrap_layers(
        model, lambda part: tfmot.sparsity.keras.prune_low_magnitude(part, schedule), wanted
    )


def cluster(model, train, *, preserve_sparsity, wanted=None):
    """Clustering into `NUM_CLUSTERS` values a kernel, its zeros kept if so told."""
    clustered = wrap_for_clustering(model, preserve_sparsity=preserve_sparsity, wanted=wanted)
    train(clustered)
    return tfmot.clustering.keras.strip_clustering(clustered)


def wrap_for_clustering(model, *, preserve_sparsity, start="KMEANS_PLUS_PLUS", wanted=None):
    """A model that clusters its layers; `start` names how the centroids are initialised."""
    initialization = tfmot.clustering.keras.CentroidInitialization[start]
    return wrap_layers(
        model,
        lambda part: experimental.cluster_weights(
            part, NUM_CLUSTERS, initialization, preserve_sparsity=preserve_sparsity
        ),
        wanted,
    )


def quantize_aware(model, train, *, preserve_sparsity=True):
    """Quantization-aware training that keeps clusters, and zeros; the model with its ranges."""
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(
        preserve_sparsity=preserve_sparsity
    )
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    quantized = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    train(quantized)
    return quantized


def convert_quantized(model):
    """The int8 .tflite file of a model after quantization-aware training."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with contextlib.redirect_stdout(io.StringIO()):
        return converter.convert()


# What is in a file.


def count(tflite):
    """Most values in a kernel (or in one of its channels, where each has a scale), and zeros.

    Read from the file itself; zeros are a share of all entries of kernels, 0 to 1.
    """
    tensors = [t for t in tflite_report(tflite).tensors if len(t.shape) > 1]
    zeros = sum(t.zeros for t in tensors) / sum(t.size for t in tensors)
    return max(t.distinct_per_channel for t in tensors), zeros


def measure_accuracy(logits, labels):
    """Share of right answers, 0 to 1."""
    return float(np.mean(np.argmax(logits, -1) == labels))
