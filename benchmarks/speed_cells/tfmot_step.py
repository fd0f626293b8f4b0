"""Training steps under tfmot for speed.py, on tf_keras: prints JSON.

    python benchmarks/speed_cells/tfmot_step.py NET ROUNDS STEPS SEED

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
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import nets
import tensorflow_model_optimization as tfmot
import tf_keras

NUM_CLUSTERS = 16
SPARSITIES = 0.5, 0.9


def prune(model):
    """The model under magnitude pruning, and the callbacks that this needs."""
    schedule = tfmot.sparsity.keras.PolynomialDecay(*SPARSITIES, 0, nets.TRAINING_STEPS)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    return tfmot.sparsity.keras.prune_low_magnitude(model, schedule), callbacks


def cluster_whole(model):
    """The model under clustering, in one call; BatchNorm runs as in inference."""
    return wrap_for_clustering(model), []


def cluster(model):
    """The model under clustering, but for BatchNorm, which trains as in `fit`."""

    def wrap(layer):
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            return type(layer).from_config(layer.get_config())
        return wrap_for_clustering(layer)

    if not has_batch_norm(model):
        return cluster_whole(model)
    return tf_keras.models.clone_model(model, clone_function=wrap), []


def wrap_for_clustering(model_or_layer):
    """A layer, or all layers of a model, in tfmot's wrapper."""
    start = tfmot.clustering.keras.CentroidInitialization.LINEAR
    return tfmot.clustering.keras.cluster_weights(model_or_layer, NUM_CLUSTERS, start)


def has_batch_norm(model):
    """Whether the two ways to cluster differ."""
    return any(isinstance(layer, tf_keras.layers.BatchNormalization) for layer in model.layers)


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
