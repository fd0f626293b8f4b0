"""A U-Net with BatchNorm on pictures that are made up: shapes behind noise."""

import functools

import numpy as np

from benchmarks.real_networks.network import SEGMENTATION, Network, Training, split

SIZE, SHAPES = 48, 4
# Nothing, discs, squares, diamonds.
NUM_CLASSES = 4
NUM_TRAINING, NUM_VALIDATION, NUM_TEST = 3_000, 500, 1_000
NOISE = 0.2


@functools.cache
def load():
    """Pictures of shape (n, 48, 48, 1) and the class of each pixel."""
    number = NUM_TRAINING + NUM_VALIDATION + NUM_TEST
    generator = np.random.default_rng(0)
    pictures, labels = zip(*(_draw(generator) for _ in range(number)), strict=True)
    return split(np.stack(pictures), np.stack(labels), NUM_VALIDATION, NUM_TEST)


def _draw(generator):
    """A picture, its later shapes over the earlier ones, and its classes."""
    labels = np.zeros((SIZE, SIZE), np.int32)
    ground = generator.uniform(0.4, 0.6)
    picture = np.full((SIZE, SIZE), ground)
    for kind in generator.integers(1, NUM_CLASSES, SHAPES):
        inside = _distance(generator, kind) < generator.uniform(4, 9)
        labels[inside] = kind
        # Brighter or darker than the ground, sometimes by little.
        picture[inside] = ground + generator.choice([-1, 1]) * generator.uniform(0.2, 0.6)
    picture += _shade(generator) + NOISE * generator.standard_normal(picture.shape)
    return picture[..., None].astype(np.float32), labels


def _distance(generator, kind):
    """How far each pixel is from a random centre, as discs, squares or diamonds count it."""
    center = generator.uniform(6, SIZE - 6, 2)
    y, x = np.abs(np.mgrid[:SIZE, :SIZE] - center[:, None, None])
    return (np.hypot(y, x), np.maximum(y, x), (y + x) / np.sqrt(2))[kind - 1]


def _shade(generator):
    """Light that changes across the picture."""
    slopes = generator.uniform(-0.3, 0.3, 2)
    return np.tensordot(slopes, np.mgrid[:SIZE, :SIZE] / SIZE - 0.5, 1)


def unet(library):
    """Three levels with 12, 24 and 48 channels, two convolutions each."""
    layers = library.layers

    def convolve(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    inputs = library.Input((SIZE, SIZE, 1))
    high = convolve(inputs, 12)
    middle = convolve(layers.MaxPooling2D()(high), 24)
    x = convolve(layers.MaxPooling2D()(middle), 48)
    for skipped, filters in ((middle, 24), (high, 12)):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = convolve(layers.Concatenate()([x, skipped]), filters)
    return library.Model(inputs, layers.Conv2D(NUM_CLASSES, 1)(x), name="unet")


NETWORKS = [
    Network(
        "unet",
        unet,
        load,
        Training(20, 3e-3, 32),
        Training(12, batch_size=32),
        SEGMENTATION,
        jit_compile=False,
    )
]
