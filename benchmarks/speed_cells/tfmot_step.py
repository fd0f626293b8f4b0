"""Training steps under tfmot for speed.py, on tf_keras: prints JSON.

    python -m benchmarks.speed_cells.tfmot_step NET ROUNDS STEPS SEED

A process of its own, since tfmot changes what tf.keras is. Pruning goes to 90 % along a
polynomial; clustering has 16 centroids, which start evenly spaced: how they start makes
no difference to a step.

tfmot's clustering wrapper does not hand `training` on to the layer. Around a whole model,
BatchNorm so runs as in inference: a cheaper step, which does not train what plain `fit`
trains. Networks that have any are measured so, and with those layers left unwrapped.
"""

import json
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow_model_optimization as tfmot
import tf_keras

from benchmarks.speed_cells import nets
from examples import tfmot_steps as steps

SPARSITIES = 0.5, 0.9


def prune(model):
    """The model under magnitude pruning, and the callbacks that this needs."""
    schedule = tfmot.sparsity.keras.PolynomialDecay(*SPARSITIES, 0, nets.TRAINING_STEPS)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    return steps.wrap_for_pruning(model, schedule), callbacks


def cluster_whole(model):
    """The model under clustering, in one call; BatchNorm runs as in inference."""
    return steps.wrap_for_clustering(model, preserve_sparsity=False, start="LINEAR"), []


def cluster(model):
    """The model under clustering, but for BatchNorm, which trains as in `fit`."""
    if not has_batch_norm(model):
        return cluster_whole(model)
    clustered = steps.wrap_for_clustering(
        model,
        preserve_sparsity=False,
        start="LINEAR",
        wanted=lambda layer: not is_batch_norm(layer),
    )
    return clustered, []


def has_batch_norm(model):
    """Whether the two ways to cluster differ."""
    return any(map(is_batch_norm, model.layers))


def is_batch_norm(layer):
    """Whether the layer normalises batches."""
    return isinstance(layer, tf_keras.layers.BatchNormalization)


def plain(model):
    """The model as it is."""
    return model, []


def main():
    """Measures what can be wrapped, and says why the rest cannot."""
    name, *counts = sys.argv[1:]
    rounds, steps, seed = map(int, counts)
    tf_keras.utils.set_random_seed(seed)
    build = nets.NETS[name].build
    ways = {"plain": plain, "prune": prune, "cluster": cluster}
    if has_batch_norm(build(tf_keras)):
        ways["cluster_whole"] = cluster_whole
    contestants, failures = {}, {}
    for key, wrap in ways.items():
        try:
            model, callbacks = wrap(build(tf_keras))
        except (ValueError, TypeError) as error:
            # What tfmot raises for a model that it cannot wrap.
            failures[key] = {"reason": str(error).splitlines()[0]}
            continue
        nets.compile_model(tf_keras, model, jit_compile=False)
        contestants[key] = model, callbacks
    turns = nets.take_turns(tf_keras, name, contestants, rounds=rounds, steps=steps, seed=seed)
    print(json.dumps(turns | failures))


if __name__ == "__main__":
    main()
