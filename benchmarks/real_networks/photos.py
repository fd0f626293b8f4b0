"""Networks with BatchNorm on CIFAR-10; all take bytes, 0 to 255."""

import functools

import keras
import numpy as np
import tensorflow as tf

from benchmarks.real_networks import files
from benchmarks.real_networks.network import (
    CLASSIFICATION_OF_PROBABILITIES,
    Network,
    Training,
)
from benchmarks.speed_cells import nets

NUM_CLASSES, NUM_VALIDATION = 10, 5_000
RESNET_8 = "mlperf_tiny/pretrainedResnet.h5"
NOTE = (
    "Where the pictures come from cifar10_jpeg.npz they went through JPEG, which costs points."
)


# The data.


@functools.cache
def load():
    """Bytes of shape (n, 32, 32, 3) and labels; 45,000, 5,000 and 10,000 pictures."""
    path = files.find("cifar10_jpeg.npz")
    if path is None:
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    else:
        with np.load(path) as file:
            (x, y), (x_test, y_test) = (_decode(file, part) for part in ("train", "test"))
    cut = len(x) - NUM_VALIDATION
    y, y_test = y.reshape(-1), y_test.reshape(-1)
    return (x[:cut], y[:cut]), (x[cut:], y[cut:]), (x_test, y_test)


def _decode(file, part):
    """The pictures of a part, which the file holds as one JPEG behind the other."""
    blob = file[f"jpeg_{part}"].tobytes()
    ends = np.cumsum(file[f"sizes_{part}"].astype(np.int64))
    pictures = np.empty((len(ends), 32, 32, 3), np.uint8)
    for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        pictures[number] = tf.io.decode_jpeg(blob[start:end], 3, dct_method="INTEGER_ACCURATE")
    return pictures, file[f"y_{part}"]


def mirror_and_shift(data, batch_size, seed, shift=3):
    """Batches in random order: half the pictures mirrored, all moved by up to `shift` pixels.

    Whole batches are gathered at once, which takes about a millisecond.
    """
    (pictures, labels), size = data, data[0].shape[1]
    padded = np.pad(pictures, [(0, 0), (shift, shift), (shift, shift), (0, 0)])
    padded, labels = tf.constant(padded), tf.constant(labels)

    def start_somewhere(number):
        starts = tf.random.uniform((number, 1), maxval=2 * shift + 1, dtype=tf.int32, seed=seed)
        return starts + tf.range(size)

    def pick(indices):
        number = tf.shape(indices)[0]
        rows, columns = start_somewhere(number), start_somewhere(number)
        mirrored = tf.random.uniform((number, 1), seed=seed) < 0.5
        columns = tf.where(mirrored, columns[:, ::-1], columns)
        batch = tf.gather(tf.gather(padded, indices), rows, axis=1, batch_dims=1)
        batch = tf.gather(batch, columns, axis=2, batch_dims=1)
        return batch, tf.gather(labels, indices)

    numbers = tf.data.Dataset.range(len(pictures)).shuffle(len(pictures), seed=seed)
    return numbers.batch(batch_size).map(pick).prefetch(2)


# The networks.


def resnet_8(library):
    """MLPerf Tiny's, with the weights of its file; 78,666 parameters, ends in a softmax."""
    path = files.find(RESNET_8)
    if path is None:
        raise FileNotFoundError(
            f"{RESNET_8} is missing: copy pretrainedResnet.h5 of the repository "
            f"mlcommons/tiny there, into the folder that {files.VARIABLE} or --data names."
        )
    return library.models.load_model(path, compile=False)


def separable(library):
    """Depthwise-separable as MobileNet is, 16 to 128 channels."""
    layers = library.layers

    def normalize(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = library.Input((32, 32, 3))
    x = normalize(layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs))
    for filters, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x)
        x = normalize(layers.Conv2D(filters, 1, use_bias=False)(normalize(x)))
    x = layers.GlobalAveragePooling2D()(x)
    return library.Model(inputs, layers.Dense(NUM_CLASSES)(x), name="separable")


def wrn_16_4(library):
    """The paper's wide residual network: 16 layers, 64 to 256 channels, 2.7 M parameters."""
    layers = library.layers

    def conv(x, filters, size, stride=1):
        return layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)

    def activate(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    def block(x, filters, stride):
        before = activate(x)
        grows = x.shape[-1] != filters
        shortcut = conv(before, filters, 1, stride) if grows else x
        inner = conv(activate(conv(before, filters, 3, stride)), filters, 3)
        return layers.Add()([inner, shortcut])

    inputs = library.Input((32, 32, 3))
    x = conv(inputs, 16, 3)
    for filters, stride in ((64, 1), (128, 2), (256, 2)):
        x = block(block(x, filters, stride), filters, 1)
    x = layers.GlobalAveragePooling2D()(activate(x))
    return library.Model(inputs, layers.Dense(NUM_CLASSES)(x), name="wrn_16_4")


NETWORKS = [
    Network(
        "resnet-8",
        resnet_8,
        load,
        Training(10),
        Training(16),
        CLASSIFICATION_OF_PROBABILITIES,
        mirror_and_shift,
        f"{NOTE} Pretraining fine-tunes the file of MLPerf Tiny.",
        jit_compile=False,
    ),
    Network(
        "separable",
        separable,
        load,
        Training(10, 4e-3, 128),
        Training(10, batch_size=128),
        batches=mirror_and_shift,
        note=NOTE,
        jit_compile=False,
    ),
    Network(
        "resnet-20",
        nets.resnet_20,
        load,
        Training(8, 3e-3, 128),
        Training(6, batch_size=128),
        batches=mirror_and_shift,
        note=f"{NOTE} Few epochs, as two cores allow: the dense network is not trained out.",
        jit_compile=False,
    ),
    Network(
        "wrn-16-4",
        wrn_16_4,
        load,
        Training(100, 0.1, 128, "SGD"),
        Training(40, batch_size=128),
        batches=mirror_and_shift,
        note=NOTE,
        jit_compile=False,
        on_request=True,
    ),
]
