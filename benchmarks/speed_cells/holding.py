"""What holding the prior's gradients between evaluations does, for speed.py: prints JSON.

    python -m benchmarks.speed_cells.holding SEED WATCH

The digits, network and settings of examples/quickstart.py. One dense network goes through
the training with everything evaluated at every step, through that with the default period,
and, if WATCH is 1, through that once more: what a step takes for the gradients of
-sum log p(w) is set against the formula in float64, at that step's weights, mixture and factor.
"""

import json
import sys

import keras
import numpy as np

import tfmot_sws as sws
from benchmarks.speed_cells.prior import oracle
from examples import quickstart
from tfmot_sws.prior.density import MixtureTensors

ORACLE_SLICE = 20_000
# One step in so many is compared; they fall on all numbers of steps since the evaluation.
WATCHED = 5


class Watch(keras.callbacks.Callback):
    """Notes how far off the gradients of a step are; comes after `AnnealAndMerge`."""

    def __init__(self):
        super().__init__()
        self.records, self.steps = [], 0
        # The loss as it is held, and how many steps it has been held for.
        self.held, self.age = None, 0

    def on_train_batch_begin(self, batch, logs=None):
        """Copies what the step will be made at."""
        self.steps += 1
        held = float(keras.ops.convert_to_numpy(self.model.sharing.held.read()[0]))
        self.held, self.age = held, (self.age + 1 if held == self.held else 0)
        if self.steps % WATCHED:
            return
        # Those of the first layer, which has most of the weights.
        group = self.model.groups[0]
        prior, variables = group.prior, group.variables
        self.num_tensors = len(variables)
        weights = [keras.ops.convert_to_numpy(v).reshape(-1) for v in variables]
        self.points = np.concatenate(weights)
        self.mixture = MixtureTensors(*map(keras.ops.convert_to_numpy, prior.tensors()))
        tau = float(keras.ops.convert_to_numpy(self.model.complexity_weight))
        self.factor = tau / self.model.train_size

    def on_train_batch_end(self, batch, logs=None):
        """Compares what the step has used."""
        if self.steps % WATCHED:
            return
        held = self.model.sharing.held.read()
        _, *gradients = map(keras.ops.convert_to_numpy, held)
        if self.factor > 0.0:
            errors = self._errors(gradients)
            self.records.append({"steps since": self.age, **errors})

    def _errors(self, gradients):
        """As `prior.measure_errors`; the mixture's against the weights' contributions."""
        slopes, fields = gradients[: self.num_tensors], gradients[-3:]
        slopes = np.concatenate([slope.reshape(-1) for slope in slopes])
        exact, sums, absolute = [], 0.0, 0.0
        for start in range(0, len(self.points), ORACLE_SLICE):
            _, slope, in_mixture = oracle(
                self.points[start : start + ORACLE_SLICE], self.mixture
            )
            exact.append(slope)
            sums = sums + in_mixture.sum(axis=1)
            absolute = absolute + np.abs(in_mixture).sum(axis=1)
        exact = self.factor * np.concatenate(exact)
        held = np.stack([of_all[0] for of_all in fields]) / self.factor
        off = np.linalg.norm(held - sums, axis=1) / np.linalg.norm(absolute, axis=1)
        return {
            "weights": float(np.linalg.norm(slopes - exact) / np.linalg.norm(exact)),
            "mixture": float(np.max(off)),
        }


def pretrain(data, seed):
    """The example's dense network."""
    keras.utils.set_random_seed(seed)
    dense = quickstart.build_model()
    steps = quickstart.PRETRAIN_EPOCHS * _steps_per_epoch(data)
    quickstart.compile_model(dense, steps, quickstart.PRETRAIN_LEARNING_RATE)
    _fit(dense, data, quickstart.PRETRAIN_EPOCHS, [])
    return dense


def share(dense, data, seed, period, callbacks=()):
    """The stripped model."""
    keras.utils.set_random_seed(seed)
    model = keras.models.clone_model(dense)
    model.set_weights(dense.get_weights())
    shared = sws.apply_soft_weight_sharing(
        model, options=sws.PriorOptions(renewal_period=period)
    )
    steps = quickstart.SHARE_EPOCHS * _steps_per_epoch(data)
    quickstart.compile_model(shared, steps, quickstart.SHARE_LEARNING_RATE)
    _fit(shared, data, quickstart.SHARE_EPOCHS, [sws.AnnealAndMerge(), *callbacks])
    return sws.strip_soft_weight_sharing(shared)


def _steps_per_epoch(data):
    return -(-len(data[0]) // quickstart.BATCH_SIZE)


def _fit(model, data, epochs, callbacks):
    model.fit(
        *data, batch_size=quickstart.BATCH_SIZE, epochs=epochs, callbacks=callbacks, verbose=0
    )


def main():
    """Outcomes by period, and the errors of the steps of one training."""
    seed, watched = map(int, sys.argv[1:])
    x_train, x_test, y_train, y_test = quickstart.load_data()
    data, default = (x_train, y_train), sws.PriorOptions().renewal_period
    dense = pretrain(data, seed)
    outcomes = []
    for period in (1, default):
        small = share(dense, data, seed, period)
        outcomes.append(
            {
                "period": period,
                "accuracy": quickstart.measure_accuracy(small, x_test, y_test),
                "bytes": sws.compression_report(small).coded_bytes,
            }
        )
    watch = Watch()
    if watched:
        share(dense, data, seed, default, [watch])
    accuracy = quickstart.measure_accuracy(dense, x_test, y_test)
    record = {"seed": seed, "dense": accuracy, "outcomes": outcomes, "errors": watch.records}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
