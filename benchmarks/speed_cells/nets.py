"""Networks, data and the clock of speed.py; every function takes Keras 3 or tf_keras."""

import collections
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

NUM_CLASSES = 10
NUM_WORDS, SEQUENCE, WIDTH, HEADS, BLOCKS = 5_000, 64, 128, 4, 2
# What happens once an epoch is spread over the steps of an epoch of this many examples.
EPOCH_EXAMPLES = 50_000
# As many steps as the training has that a turn is cut out of.
TRAINING_STEPS = 17_000
LEARNING_RATE = 1e-3
# Steps from one evaluation of the prior to the next; step.py holds it to the default.
RENEWAL_PERIOD = 16
# Rounds from which the scatter of a median can be told.
FEWEST_FOR_INTERVAL = 5


@dataclasses.dataclass(frozen=True)
class Net:
    """A network to be timed."""

    build: Callable[[Any], Any]
    input_shape: tuple[int, ...]
    batch_size: int


def lenet_300_100(keras):
    """The example's."""
    from examples import lenet_mnist

    return lenet_mnist.lenet_300_100(keras)


def lenet_5_caffe(keras):
    """The example's."""
    from examples import lenet_mnist

    return lenet_mnist.lenet_5_caffe(keras)


def resnet_20(keras):
    """Three stages of three blocks with 16, 32 and 64 filters, as for CIFAR-10."""
    layers = keras.layers

    def conv(x, filters, size, strides=1):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    def block(x, filters, strides):
        y = layers.ReLU()(conv(x, filters, 3, strides))
        y = conv(y, filters, 3)
        shortcut = x if strides == 1 else conv(x, filters, 1, strides)
        return layers.ReLU()(layers.Add()([y, shortcut]))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(conv(inputs, 16, 3))
    for filters in (16, 32, 64):
        for number in range(3):
            x = block(x, filters, 2 if number == 0 and filters > 16 else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(NUM_CLASSES)(x), name="resnet_20")


def mobilenet_v2(keras):
    """Of keras.applications, for 96 x 96 pixels."""
    return keras.applications.MobileNetV2(
        (96, 96, 3), weights=None, classes=NUM_CLASSES, classifier_activation=None
    )


def resnet_50(keras):
    """Of keras.applications, for 64 x 64 pixels."""
    return keras.applications.ResNet50(
        input_shape=(64, 64, 3),
        weights=None,
        classes=NUM_CLASSES,
        classifier_activation=None,
    )


def transformer(keras):
    """An embedding and two blocks of attention and a dense pair; no positions."""
    layers = keras.layers
    inputs = keras.Input((SEQUENCE,), dtype="int32")
    x = layers.Embedding(NUM_WORDS, WIDTH)(inputs)
    for _ in range(BLOCKS):
        normed = layers.LayerNormalization()(x)
        attended = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(normed, normed)
        x = layers.Add()([x, attended])
        hidden = layers.Dense(4 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(WIDTH)(hidden)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(NUM_CLASSES)(x), name="transformer")


NETS = {
    "lenet-300-100": Net(lenet_300_100, (28, 28, 1), 128),
    "lenet-5-caffe": Net(lenet_5_caffe, (28, 28, 1), 128),
    "resnet-20": Net(resnet_20, (32, 32, 3), 64),
    "mobilenet-v2": Net(mobilenet_v2, (96, 96, 3), 64),
    "resnet-50": Net(resnet_50, (64, 64, 3), 64),
    "transformer": Net(transformer, (SEQUENCE,), 64),
}


def make_data(name, num_steps, seed):
    """Random inputs and labels for so many steps."""
    net, generator = NETS[name], np.random.default_rng(seed)
    shape = (num_steps * net.batch_size, *net.input_shape)
    if name == "transformer":
        x = generator.integers(0, NUM_WORDS, shape, dtype=np.int32)
    else:
        x = generator.random(shape, dtype=np.float32)
    return x, generator.integers(0, NUM_CLASSES, shape[0])


def compile_model(keras, model, jit_compile):
    """Adam and cross-entropy."""
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )


def make_clock(keras):
    """A callback that notes when each step and the epoch end; stops after one epoch."""

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

        def on_epoch_end(self, epoch, logs=None):
            self.end = time.perf_counter()
            self.model.stop_training = True

    return Clock()


def time_fit(keras, model, data, batch_size, callbacks):
    """One epoch out of the middle of a training.

    Returns:
        Seconds a step but for the first, of the call of `fit` up to the epoch's end, and
        of that up to the end of the first step. What a callback does at the training's end
        comes once in many epochs. After that `fit` lets go of its data, which takes long
        now and then, with any model.
    """
    clock, steps = make_clock(keras), len(data[0]) // batch_size
    # The first step, which always evaluates the prior, is not counted; those that follow
    # must hold as many evaluations as a long training does.
    assert (steps - 1) % RENEWAL_PERIOD == 0, steps
    epochs = max(2, TRAINING_STEPS // steps)
    start = time.perf_counter()
    model.fit(
        *data,
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=epochs // 2,
        callbacks=[*callbacks, clock],
        verbose=0,
    )
    total = clock.end - start
    step = (clock.ends[-1] - clock.ends[0]) / (steps - 1)
    return step, total, clock.ends[0] - start


def take_turns(keras, name, contestants, *, rounds, steps, seed):
    """Each model in turn, round after round, so that all meet the same disturbances.

    Each round begins with another one, for what runs first may meet what the last left.

    Args:
        keras: Keras 3 or tf_keras.
        name: of the network.
        contestants: by name, a compiled model and its callbacks; the first is plain.
        rounds: how many turns each has, after one that is not counted.
        steps: of a turn, one more than a multiple of `RENEWAL_PERIOD`.
        seed: of the data.

    Returns:
        By name: seconds a `step`, `epoch` more seconds an epoch, `spread` seconds a step
        with those of an epoch of `EPOCH_EXAMPLES` spread over it, all medians; and the
        `ratio` of `spread` to plain's in the same round, the median over the `ratios` of
        all rounds, and `interval`, the median's bounds at 95 % confidence (bootstrap).
        `first` is the first step of all, with what is compiled for it.
    """
    batch_size = NETS[name].batch_size
    data = make_data(name, steps, seed)
    turns, firsts = {key: [] for key in contestants}, {}
    order = collections.deque(contestants)
    for _ in range(rounds + 1):
        for key in order:
            model, callbacks = contestants[key]
            step, total, first = time_fit(keras, model, data, batch_size, callbacks)
            if key not in firsts:
                firsts[key] = first
                continue
            epoch = max(0.0, total - steps * step)
            spread = step + epoch * batch_size / EPOCH_EXAMPLES
            turns[key].append({"step": step, "epoch": epoch, "spread": spread})
        order.rotate(-1)
    plain = next(iter(turns.values()))
    return {key: {"first": firsts[key], **_summarise(turns[key], plain)} for key in turns}


def _summarise(turns, plain):
    record = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    pairs = zip(turns, plain, strict=True)
    return record | summarise_ratios([own["spread"] / p["spread"] for own, p in pairs])


def summarise_ratios(ratios):
    """Their median as `ratio`, and its bounds at 95 % confidence where they can be told."""
    record = {"ratio": statistics.median(ratios), "ratios": ratios}
    if len(ratios) >= FEWEST_FOR_INTERVAL:
        found = scipy.stats.bootstrap(
            (ratios,), np.median, method="percentile", rng=np.random.default_rng(0)
        )
        record["interval"] = list(found.confidence_interval)
    return record
