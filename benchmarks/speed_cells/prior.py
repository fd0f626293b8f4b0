"""One evaluation of the prior for speed.py, in a process of its own: prints JSON.

    python -m benchmarks.speed_cells.prior METHOD WEIGHTS COMPONENTS REPEATS SEED

Timed are the loss and all its gradients. The weights are `DISTINCT` different ones,
repeated, so that a float64 oracle of any size takes a few seconds; they come in tensors
of the size of the largest kernel of a ResNet-50.
"""

import functools
import json
import re
import statistics
import sys
import time
from unittest import mock

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from tfmot_sws.prior.density import MixtureTensors
from tfmot_sws.prior.density_table import total_negative_log_prob
from tfmot_sws.prior.form import stack
from tfmot_sws.prior.held_loss import HeldLoss, evaluate
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.prior.trainable import GaussianMixturePrior

DISTINCT = 640_000
WARM_UP = 10_000
LARGEST_TENSOR = 3 * 3 * 512 * 512
ORACLE_SLICE = 20_000
# Repeats go on for the first number of seconds at least, for the median of a few short ones
# scatters. They stop at the second, but three are made in any case.
LEAST_SECONDS = 1.0
MOST_SECONDS = 6.0


def published(weights, mixture):
    """The published formula, evaluated as its authors' tutorial does.

    Log-sum-exp over tensors of shape (|W|, K), shifted by the largest exponent, through
    which the gradient passes too; the proportions stand outside of the exponential.
    """
    precisions = tf.exp(mixture.log_precisions)
    factors = tf.exp(mixture.log_proportions) * tf.sqrt(precisions / (2 * np.pi))
    loss = 0.0
    for tensor in weights:
        difference = tf.reshape(tensor, (-1, 1)) - mixture.means
        exponents = -0.5 * precisions * difference**2
        largest = tf.reduce_max(exponents, axis=1, keepdims=True)
        sums = tf.reduce_sum(factors * tf.exp(exponents - largest), axis=1)
        loss -= tf.reduce_sum(tf.math.log(sums) + largest[:, 0])
    return loss


# The prior, whether the whole function is compiled, and whether the prior's pieces are.
METHODS = {
    "published": (published, False, False),
    "published, XLA": (published, True, False),
    "ours, no XLA": (total_negative_log_prob, False, False),
    "ours": (total_negative_log_prob, False, True),
}


def make_step(method):
    """The loss and its gradients in weights and mixture, as one function."""
    prior, compile_all, compile_pieces = METHODS[method]

    @functools.partial(tf.function, autograph=False, jit_compile=compile_all)
    def step(weights, mixture):
        with tf.GradientTape() as tape:
            tape.watch([*weights, *mixture])
            loss = prior(weights, mixture)
        return loss, tape.gradient(loss, [*weights, *mixture])

    return step if compile_pieces or compile_all else functools.partial(_without_xla, step)


def _without_xla(step, *arguments):
    """Calls it so that the pieces within, traced at the first call, are not compiled."""
    plain = tf.function

    def function(*args, **kwargs):
        return plain(*args, **{**kwargs, "jit_compile": False})

    with mock.patch.object(tf, "function", function):
        return step(*arguments)


def make_training_step(tensors, mixture):
    """The complexity loss as in training: evaluated at one step in a few, else held."""
    num_components = len(mixture.means)
    prior = GaussianMixturePrior(num_components)
    prior.set_mixture(
        GaussianMixture(
            mixture.means,
            np.exp(-0.5 * mixture.log_precisions.astype("float64")),
            np.exp(mixture.log_proportions.astype("float64")),
        ),
        np.arange(num_components),
    )
    held = HeldLoss([tuple(tensor.shape) for tensor in tensors], 1, num_components)
    variables = [variable.value for variable in prior.trainable_variables]
    steps = prior.options.renewal_period
    size = sum(int(tf.size(tensor)) for tensor in tensors)

    @tf.function(autograph=False)
    def step(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            state = stack([prior.state()])
            mixtures = prior.form.tensors(state)
            of_hyperpriors = prior.form.hyperprior_loss(mixtures, state, [size])
            loss = held.loss(weights, mixtures, 1.0) + of_hyperpriors
        return loss, tape.gradient(loss, [*weights, *variables])

    def period():
        """The steps from one evaluation to the next."""
        held.assign(evaluate([(tensors, prior.tensors())], tf.constant(1.0)))
        for _ in range(steps):
            results = step(tensors)
        return results

    return period, steps


def make_mixture(generator, num_components):
    """Components of widths from 0.001 to 1, the first at zero with most of the weights."""
    means = generator.uniform(-1, 1, num_components)
    means[0] = 0.0
    stddevs = np.exp(generator.uniform(np.log(1e-3), 0.0, num_components))
    rest = generator.dirichlet(np.ones(num_components - 1))
    proportions = np.concatenate([[0.9], 0.1 * np.maximum(rest, 1e-12)])
    fields = means, -2 * np.log(stddevs), np.log(proportions)
    return MixtureTensors(*(field.astype("float32") for field in fields))


def draw_weights(generator, mixture):
    """The distinct weights: four fifths from the mixture, the rest from anywhere."""
    proportions = np.exp(mixture.log_proportions.astype("float64"))
    slots = generator.choice(len(proportions), DISTINCT, p=proportions / proportions.sum())
    stddevs = np.exp(-0.5 * mixture.log_precisions)
    weights = generator.normal(mixture.means[slots], stddevs[slots])
    anywhere = generator.uniform(-1.5, 1.5, DISTINCT)
    return np.where(generator.random(DISTINCT) < 0.8, weights, anywhere).astype("float32")


def to_tensors(distinct, size):
    """The weights, repeated to `size`, as tensors; never more than one of them twice."""
    tensors = []
    for start in range(0, size, LARGEST_TENSOR):
        places = np.arange(start, min(start + LARGEST_TENSOR, size), dtype="int32") % DISTINCT
        tensors.append(tf.constant(distinct[places]))
    return tensors


def oracle(distinct, mixture):
    """In float64, of each distinct weight: loss and slope; contributions in the mixture."""
    means, log_precisions, log_proportions = (f.astype("float64") for f in mixture)
    points = distinct.astype("float64")[:, None]
    log_norm = log_proportions + 0.5 * (log_precisions - np.log(2 * np.pi))
    pull = np.exp(log_precisions) * (points - means)
    joint = log_norm - 0.5 * pull * (points - means)
    log_prob = logsumexp(joint, axis=1, keepdims=True)
    shares = np.exp(joint - log_prob)
    in_precisions = 0.5 * shares * (pull * (points - means) - 1.0)
    in_mixture = np.stack([-shares * pull, in_precisions, -shares])
    return -log_prob[:, 0], np.sum(shares * pull, axis=1), in_mixture


def measure_errors(distinct, mixture, size, results):
    """Relative errors of loss, of the weights' gradient, and of the mixture's gradients.

    The last are relative to the sum of the weights' absolute contributions: near the
    optimum the contributions cancel.
    """
    loss, gradients = results
    *slopes, means, log_precisions, log_proportions = (g.numpy() for g in gradients)
    repeats = size // DISTINCT + (np.arange(DISTINCT) < size % DISTINCT)
    exact_loss, exact_slopes, sums, absolute = 0.0, [], 0.0, 0.0
    for start in range(0, DISTINCT, ORACLE_SLICE):
        part = slice(start, start + ORACLE_SLICE)
        losses, slope, in_mixture = oracle(distinct[part], mixture)
        exact_loss += repeats[part] @ losses
        exact_slopes.append(slope)
        sums = sums + np.einsum("n,fnk->fk", repeats[part], in_mixture)
        absolute = absolute + np.einsum("n,fnk->fk", repeats[part], np.abs(in_mixture))
    off = np.linalg.norm(np.stack([means, log_precisions, log_proportions]) - sums, axis=1)
    return {
        "loss": float(abs(float(loss) - exact_loss) / abs(exact_loss)),
        "weights": _slope_error(slopes, np.concatenate(exact_slopes)),
        "mixture": float(np.max(off / np.linalg.norm(absolute, axis=1))),
    }


def _slope_error(slopes, exact):
    """Tensor by tensor, so that no float64 copy of all weights is made."""
    off, norm, start = 0.0, 0.0, 0
    for slope in slopes:
        expected = exact[np.arange(start, start + slope.size) % DISTINCT]
        off += np.sum((slope.reshape(-1) - expected) ** 2)
        norm += np.sum(expected**2)
        start += slope.size
    return float(np.sqrt(off / norm))


def measure_seconds(step, arguments, repeats):
    """Median over the repeats, and what the last one returned."""
    seconds = []
    while len(seconds) < 3 or (
        sum(seconds) < MOST_SECONDS and (len(seconds) < repeats or sum(seconds) < LEAST_SECONDS)
    ):
        results = None  # Frees the last ones before the next are made.
        start = time.perf_counter()
        results = step(*arguments)
        results[0].numpy()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), results


def measure_memory(step, arguments):
    """Most bytes that a first call holds beyond those held before; `None` but on Linux.

    TensorFlow keeps what it has once taken, so later calls would show nothing.
    """
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # Sets the peak back, which may stem from the start.
    before = _memory("VmRSS")
    step(*arguments)[0].numpy()
    return _memory("VmHWM") - before


def _memory(field):
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(rf"{field}:\s+(\d+)", file.read())[1])


def measure_training(distinct, size, mixture, repeats):
    """Seconds a step, on average over the steps from one evaluation to the next.

    At an evaluation the results are those of "ours". Memory is what is held, too.
    """
    warm_up, _ = make_training_step(to_tensors(distinct, WARM_UP), mixture)
    warm_up()
    tensors, made = to_tensors(distinct, size), []

    def first_period():
        made.append(make_training_step(tensors, mixture))
        return made[0][0]()

    memory = measure_memory(first_period, ())
    period, num_steps = made[0]
    seconds, _ = measure_seconds(period, (), repeats)
    return {"memory": memory, "seconds": seconds / num_steps, "errors": None}


def main():
    """One cell: seconds, bytes, errors."""
    method, *numbers = sys.argv[1:]
    size, num_components, repeats, seed = map(int, numbers)
    generator = np.random.default_rng([seed, num_components])
    mixture = make_mixture(generator, num_components)
    distinct = draw_weights(generator, mixture)
    if method == "ours, in training":
        print(json.dumps(measure_training(distinct, size, mixture, repeats)))
        return
    step = make_step(method)
    tensors = MixtureTensors(*(tf.constant(field) for field in mixture))
    # What tracing and compilation take whatever the size is taken before.
    step(to_tensors(distinct, WARM_UP), tensors)
    arguments = to_tensors(distinct, size), tensors
    memory = measure_memory(step, arguments)
    seconds, results = measure_seconds(step, arguments, repeats)
    errors = measure_errors(distinct, mixture, size, results)
    record = {"memory": memory, "seconds": seconds, "errors": errors}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
