"""What the prior costs at any size: memory and time a step, for a billion weights and more.

    python -m benchmarks.scaling                     # measures here, then prints the table
    KERAS_BACKEND=jax python -m benchmarks.scaling   # the same on JAX

Measured are snapping, which every step pays for, and the evaluation of the prior, which one
step in `renewal_period` does; each with all gradients, over a vector of weights, compiled, as
the least of several repeats, and the memory that they take beyond the weights. The table for
large networks is arithmetic on these; see docs/scaling.md.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from benchmarks import common
from tfmot_sws.prior.assignment import Part
from tfmot_sws.prior.snapping import snap_to_means
from tfmot_sws.prior.trainable import GaussianMixturePrior

SIZES = (8_000_000, 64_000_000)
REPEATS = 7
# Bytes a weight that any training with Adam keeps: the weight, its gradient, two moments.
TRAINING_BYTES = 16


def losses(prior: Any) -> list[Callable[[Any], Any]]:
    """What a step pays for: snapping, and at one step in a few the evaluation."""

    def snapped(weights: Any) -> Any:
        part = Part([weights], prior.tensors(), prior.assignment_widths())
        return ops.sum(snap_to_means([part], ops.ones(()))[0][0])

    return [snapped, lambda weights: prior.complexity_loss([weights])]


def with_gradient(loss: Callable[[Any], Any], prior: Any) -> Callable[[Any], Any]:
    """The loss and its gradients, compiled as in training."""
    variables = prior.trainable_weights
    if keras.backend.backend() == "jax":
        import jax

        def stateless(weights: Any, values: list[Any]) -> Any:
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return loss(weights)

        compiled = jax.jit(jax.value_and_grad(stateless, argnums=(0, 1)))
        return lambda weights: compiled(weights, [v.value for v in variables])
    import tensorflow as tf

    @tf.function
    def step(weights: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            value = loss(weights)
        return value, tape.gradient(value, [weights, *(v.value for v in variables)])

    return step


def measure(size: int) -> tuple[float, float]:
    """Seconds a step, from the least of some; and the process' greatest memory, in bytes.

    What is held between evaluations is one more number a weight.
    """
    weights = np.random.default_rng(0).normal(0.0, 0.05, size).astype("float32")
    prior = GaussianMixturePrior(16)
    prior.fit_initial([weights])
    tensor = ops.convert_to_tensor(weights)
    snap, evaluate = (seconds_of(with_gradient(f, prior), tensor) for f in losses(prior))
    peak = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return snap + evaluate / prior.options.renewal_period, peak + 4.0 * size


def seconds_of(step: Callable[[Any], Any], tensor: Any) -> float:
    """The least of several repeats, after a first call that compiles."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        ops.convert_to_numpy(step(tensor)[0])
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def constants() -> dict[str, float]:
    """Nanoseconds and bytes a weight, from the difference of two sizes."""
    (time_0, memory_0), (time_1, memory_1) = (measure(size) for size in SIZES)
    more = SIZES[1] - SIZES[0]
    return {
        "ns_per_weight": (time_1 - time_0) / more * 1e9,
        # Weights, as an array and as a tensor, are the training's own.
        "bytes_per_weight": max((memory_1 - memory_0) / more - 8, 0.0),
    }


def rows(found: dict[str, float]) -> list[list[str]]:
    """The table: weights, hosts, then a host's memory in GB and seconds a step."""
    table = []
    for weights in (1e9, 1e10):
        for hosts in (1, 4, 16):
            share = weights / hosts
            table.append(
                [
                    f"{weights / 1e9:.0f} billion",
                    str(hosts),
                    f"{share * TRAINING_BYTES / 1e9:.1f}",
                    f"{share * found['bytes_per_weight'] / 1e9:.1f}",
                    f"{share * found['ns_per_weight'] / 1e9:.2f}",
                ]
            )
    return table


def to_markdown(record: dict[str, Any]) -> str:
    """Command, environment, the constants of one backend, and the table that follows."""
    found = record["constants"]
    constants = [[f"{found['ns_per_weight']:.1f}", f"{found['bytes_per_weight']:.0f}"]]
    headers = ["weights", "hosts", "training, GB a host", "prior, GB a host", "prior, s a step"]
    return common.join(
        common.to_header(record),
        common.to_section(
            "constants", common.to_table(["t, ns a weight", "b, bytes a weight"], constants)
        ),
        common.to_section("hosts", common.to_table(headers, rows(found))),
    )


def main() -> None:
    """Measures this backend, prints the table and saves it."""
    args = common.make_parser(__doc__).parse_args()
    args.run = args.run or keras.backend.backend()
    record = common.start_record("scaling", args)
    record["constants"] = constants()
    text = to_markdown(record)
    print(text)
    common.write("scaling", args, record, text)


if __name__ == "__main__":
    main()
