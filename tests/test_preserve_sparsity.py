"""Zeros that a model has when it is wrapped stay zeros, in Keras 3 and in tf_keras."""

import keras
import numpy as np
import pytest
import tf_keras
from families import RANDOM_NETWORKS
from tf_keras_families import BUILDERS, make_data

import tfmot_sws as sws

pytestmark = RANDOM_NETWORKS
LIBRARIES = {"keras": keras, "tf_keras": tf_keras}


def pruned(library, name="sequential"):
    """A model with two thirds of every kernel at zero, and where."""
    library.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    model = BUILDERS[name](library)
    weights = [
        w * (generator.random(w.shape) < 1 / 3) if w.ndim > 1 else w + 0.01
        for w in model.get_weights()
    ]
    model.set_weights(weights)
    return model, [w == 0 for w in weights]


def train(library, tau=1e-4, name="sequential", **kwargs):
    model, zeros = pruned(library, name)
    shared = sws.apply_soft_weight_sharing(
        model,
        num_components=8,
        complexity_weight=tau,
        preserve_sparsity=True,
        # The default would set all weights of so small a model to zero.
        options=sws.PriorOptions(assignment_width=0.3),
        **kwargs,
    )
    shared.compile(library.optimizers.Adam(0.005), loss="mse")
    data = make_data(name, np.random.default_rng(1))
    shared.fit(*data, epochs=2, batch_size=8, verbose=0, callbacks=[sws.AnnealAndMerge()])
    return shared, zeros


@pytest.mark.parametrize("name", ["sequential", "recurrent"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_zeros_stay_exactly_zero(library, name):
    shared, zeros = train(LIBRARIES[library], name=name)
    plain = sws.strip_soft_weight_sharing(shared)
    for weights, now, before in zip(
        shared.inner.get_weights(), plain.get_weights(), zeros, strict=True
    ):
        assert np.all(weights[before] == 0)
        assert np.all(now[before] == 0)
    assert any(np.any(w != 0) for w in plain.get_weights() if w.ndim > 1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_zeros_belong_to_the_zero_component(library):
    shared, zeros = train(LIBRARIES[library], zero_proportion=0.01, scope="model")
    # A component beside zero that takes whatever is free to go there.
    rival = sws.GaussianMixture([0.0, 1e-3], [0.1, 0.1], [0.01, 0.99])
    shared.groups[0].prior.set_mixture(rival, np.array([0, 1]))
    kernels = [
        (s, z) for s, z in zip(shared.groups[0].assignments(), zeros, strict=True) if s.ndim > 1
    ]
    assert all(np.all(slots[kept] == 0) for slots, kept in kernels)
    assert all(np.any(slots[~kept] == 1) for slots, kept in kernels)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_setting_is_saved(library, tmp_path):
    shared, _ = train(LIBRARIES[library])
    shared.save(tmp_path / "shared.keras")
    loaded = LIBRARIES[library].models.load_model(tmp_path / "shared.keras")
    assert loaded.sharing.preserve_sparsity


def test_zeros_of_biases_are_trained():
    model = BUILDERS["sequential"](keras)
    shared = sws.apply_soft_weight_sharing(
        model, num_components=4, complexity_weight=1e-4, preserve_sparsity=True
    )
    shared.compile(keras.optimizers.Adam(0.02), loss="mse")
    data = make_data("sequential", np.random.default_rng(1))
    shared.fit(*data, batch_size=8, verbose=0, callbacks=[sws.AnnealAndMerge()])
    assert np.all(np.asarray(model.layers[-1].bias) != 0)
