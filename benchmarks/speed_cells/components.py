"""The prior with many components against few, in turns, for speed.py: prints JSON.

    python -m benchmarks.speed_cells.components WEIGHTS ROUNDS SEED FEW MANY

Weights and mixtures are those of prior.py, which measures each by itself.
"""

import json
import statistics
import sys
import time

import numpy as np
import tensorflow as tf

from benchmarks.speed_cells import nets, prior

# A turn calls as often as takes about this long, once at least.
TURN_SECONDS = 0.05


def make_call(size, num_components, seed):
    """A function without arguments that evaluates loss and gradients once."""
    generator = np.random.default_rng(seed)
    mixture = prior.make_mixture(generator, num_components)
    weights = prior.to_tensors(prior.draw_weights(generator, mixture), size)
    tensors = type(mixture)(*map(tf.constant, mixture))
    step = prior.make_step("ours")

    def call():
        loss, gradients = step(weights, tensors)
        gradients[-1].numpy()
        return loss.numpy()

    return call


def time_calls(call, repeats):
    """Seconds a call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def main():
    """Measures in turns; the first call of each, which compiles, is not counted."""
    size, rounds, seed, few, many = map(int, sys.argv[1:])
    calls = {number: make_call(size, number, seed) for number in (few, many)}
    for call in calls.values():
        call()
    once = time_calls(calls[few], 1)
    repeats = max(1, round(TURN_SECONDS / once))
    seconds = {number: [] for number in calls}
    for _ in range(rounds):
        for number, call in calls.items():
            seconds[number].append(time_calls(call, repeats))
    pairs = zip(seconds[many], seconds[few], strict=True)
    record = nets.summarise_ratios([own / other for own, other in pairs])
    record["seconds"] = {number: statistics.median(turns) for number, turns in seconds.items()}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
