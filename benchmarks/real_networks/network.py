"""The record of a network: its data, how it is built, trained and judged.

A record serves Keras 3 and tf_keras alike, for tfmot needs the latter.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks import common
from tfmot_sws.models.libraries import is_tf_keras

CACHE = common.ROOT / "runs" / "real_networks"
SPLITS = ("training", "validation", "test")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adam": {},
    "AdamW": {"weight_decay": 1e-3},
    "SGD": {"momentum": 0.9, "nesterov": True},
}
PREDICTION_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Training:
    """A training: how long, with which optimizer, at what rate.

    Args:
        epochs: passes over the training data.
        rate: greatest learning rate.
        batch_size: examples a step.
        optimizer: a key of `OPTIMIZERS`, which holds its other arguments.
        falling: whether the rate falls to zero along a cosine; else it is constant.
        warmup: share of the steps in which a falling rate rises first, in [0, 1).
    """

    epochs: int
    rate: float = 1e-3
    batch_size: int = 64
    optimizer: str = "Adam"
    falling: bool = True
    warmup: float = 0.0

    def count_steps(self, num_examples):
        """Steps of the whole training."""
        return self.epochs * -(-num_examples // self.batch_size)

    def make_optimizer(self, num_examples, library=keras):
        """An optimizer of Keras 3 or tf_keras."""
        rate = self._make_schedule(num_examples, library) if self.falling else self.rate
        return getattr(library.optimizers, self.optimizer)(rate, **OPTIMIZERS[self.optimizer])

    def _make_schedule(self, num_examples, library):
        num_steps = self.count_steps(num_examples)
        rising = round(self.warmup * num_steps)
        return library.optimizers.schedules.CosineDecay(
            0.05 * self.rate if rising else self.rate,
            num_steps - rising,
            warmup_target=self.rate if rising else None,
            warmup_steps=rising,
        )


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network is asked for.

    Args:
        metric: name of the figure that tells how well it does; the lower the better.
        measure: the figure from outputs and targets, 0 for a perfect network.
        make_loss: the error loss of Keras 3 or tf_keras.
        keras_metrics: names of figures that Keras is to show during the training.
    """

    metric: str
    measure: Callable[[np.ndarray, np.ndarray], float]
    make_loss: Callable[[Any], Any]
    keras_metrics: tuple[str, ...] = ()


def _cross_entropy(from_logits):
    return lambda library: library.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def measure_error(outputs, labels):
    """Share of wrong answers, 0 to 1."""
    return float(np.mean(outputs.argmax(-1) != labels))


def measure_unexplained(outputs, targets):
    """1 - R²: the share of the targets' variance that is not explained."""
    rest = np.mean((outputs.reshape(targets.shape) - targets) ** 2)
    return float(rest / np.var(targets))


def measure_missed_overlap(outputs, labels):
    """1 - mIoU, the mean over the classes of intersection over union of all pixels."""
    found = outputs.argmax(-1)
    pairs = [(found == k, labels == k) for k in range(outputs.shape[-1])]
    overlaps = [np.sum(ours & true) / np.sum(ours | true) for ours, true in pairs]
    return float(1.0 - np.mean(overlaps))


CLASSIFICATION = Task("wrong answers", measure_error, _cross_entropy(True), ("accuracy",))
# For networks that end in a softmax.
CLASSIFICATION_OF_PROBABILITIES = dataclasses.replace(
    CLASSIFICATION, make_loss=_cross_entropy(False)
)
SEGMENTATION = Task("1 - mIoU", measure_missed_overlap, _cross_entropy(True), ("accuracy",))
REGRESSION = Task(
    "1 - R²", measure_unexplained, lambda library: library.losses.MeanSquaredError()
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with everything that a recipe needs to know about it.

    Args:
        name: as the command line takes it.
        build: makes it, given Keras 3 or tf_keras.
        load: training, validation and test data, each (inputs, targets).
        pretraining: of the dense network.
        tuning: the training that a user would give it afterwards.
        task: loss and metric.
        batches: batches of changed training examples from (data, batch size, seed);
            `None`: the examples as they are.
        note: what a reader of its figures has to know.
        jit_compile: as `compile` takes it; `None` leaves it to Keras, which lets XLA compile,
            though a step with convolutions takes it up to eight times as long on a CPU.
        on_request: whether it takes too long to be run unless it is asked for.
    """

    name: str
    build: Callable[[Any], Any]
    load: Callable[[], Any]
    pretraining: Training
    tuning: Training
    task: Task = CLASSIFICATION
    batches: Callable[..., Any] | None = None
    note: str = ""
    jit_compile: bool | None = None
    on_request: bool = False

    def retuned(self, **changes):
        """The same network with another `tuning`; what is `None` stays."""
        changes = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self, tuning=dataclasses.replace(self.tuning, **changes))

    def data(self):
        """Training, validation and test data; the last for the final figure only."""
        return self.load()

    def compile(self, model, training=None):
        """Compiles a model of this network for `tuning` or another training."""
        training = training or self.tuning
        library = library_of(model)
        model.compile(
            training.make_optimizer(len(self.data()[0][1]), library),
            self.task.make_loss(library),
            metrics=list(self.task.keras_metrics),
            **({} if self.jit_compile is None else {"jit_compile": self.jit_compile}),
        )

    def fit(self, model, training=None, *, seed=0, callbacks=(), validate=False, verbose=0):
        """Trains a compiled model; its history."""
        training = training or self.tuning
        data, validation, _ = self.data()
        options = {
            "epochs": training.epochs,
            "callbacks": list(callbacks),
            "validation_data": validation if validate else None,
            "verbose": verbose,
        }
        library_of(model).utils.set_random_seed(seed)
        if self.batches:
            batches = self.batches(data, training.batch_size, seed)
            return model.fit(batches, shuffle=False, **options)
        return model.fit(*data, batch_size=training.batch_size, **options)

    def dense(self, seed=0, folder=CACHE):
        """The pretrained network, from the folder if an earlier run left it there."""
        path = self.dense_path(seed, folder)
        if not path.exists():
            self._pretrain(seed, path)
        return keras.models.load_model(path, compile=False)

    def dense_path(self, seed=0, folder=CACHE):
        """Where the pretrained network is kept; next to it what the pretraining took."""
        return folder / f"{self.name}-{seed}.keras"

    def _pretrain(self, seed, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(seed)
        model = self.build(keras)
        self.compile(model, self.pretraining)
        start = time.perf_counter()
        self.fit(model, self.pretraining, seed=seed)
        record = {
            "seconds": time.perf_counter() - start,
            "validation": self.metric(model, "validation"),
            "parameters": model.count_params(),
        }
        path.with_suffix(".json").write_text(json.dumps(record) + "\n")
        model.save(path)

    def metric(self, model, split):
        """The task's figure on "training", "validation" or "test" data; lower is better."""
        return self.judge(
            lambda inputs: model.predict(inputs, batch_size=PREDICTION_BATCH, verbose=0), split
        )

    def judge(self, predict, split):
        """The same of any function from inputs to outputs."""
        inputs, targets = dict(zip(SPLITS, self.data(), strict=True))[split]
        return self.task.measure(predict(inputs), targets)

    def shorten(self, num_examples, epochs=1):
        """The same network on few examples and for few epochs, for tests."""
        return dataclasses.replace(
            self,
            name=f"{self.name}-short",
            load=functools.partial(_load_few, self.load, num_examples),
            pretraining=dataclasses.replace(self.pretraining, epochs=epochs),
            tuning=dataclasses.replace(self.tuning, epochs=epochs),
        )


def library_of(model):
    """Keras 3 or tf_keras, whichever a model is of."""
    return sys.modules["tf_keras"] if is_tf_keras(model) else keras


def _load_few(load, num_examples):
    return tuple((x[:num_examples], y[:num_examples]) for x, y in load())


def split(inputs, targets, num_validation, num_test):
    """The last examples for the test, those before them for validation."""
    cuts = [len(inputs) - num_validation - num_test, len(inputs) - num_test]
    return tuple(zip(np.split(inputs, cuts), np.split(targets, cuts), strict=True))
