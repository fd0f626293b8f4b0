"""Training steps under soft weight-sharing for speed.py, on Keras 3: prints JSON.

    python -m benchmarks.speed_cells.step NET JIT ROUNDS STEPS SEED

The wrapped model and the plain one take turns; the wrapped one is stripped at the end.
"""

import json
import sys
import time

import keras

import tfmot_sws as sws
from benchmarks.speed_cells import nets
from tfmot_sws.training import schedules


def main():
    """Measures the steps, and the seconds to wrap and to strip."""
    assert sws.PriorOptions().renewal_period == nets.RENEWAL_PERIOD
    name, *numbers = sys.argv[1:]
    jit_compile, rounds, steps, seed = map(int, numbers)
    keras.utils.set_random_seed(seed)
    build = nets.NETS[name].build
    plain, model = build(keras), build(keras)
    start = time.perf_counter()
    shared = sws.apply_soft_weight_sharing(model, train_size=nets.EPOCH_EXAMPLES)
    wrap = time.perf_counter() - start
    for each in (plain, shared):
        nets.compile_model(keras, each, bool(jit_compile))
    callback = sws.AnnealAndMerge(snap=schedules.constant(1.0))
    contestants = {"plain": (plain, []), "ours": (shared, [callback])}
    record = nets.take_turns(keras, name, contestants, rounds=rounds, steps=steps, seed=seed)
    start = time.perf_counter()
    sws.strip_soft_weight_sharing(shared)
    strip = time.perf_counter() - start
    parameters = plain.count_params()
    print(json.dumps({"parameters": parameters, "wrap": wrap, "strip": strip, **record}))


if __name__ == "__main__":
    main()
