"""Mixtures of one form, computed together: each as by itself, with the same gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmot_sws as sws
from tfmot_sws.prior.form import stack, unstack

FORMS = {
    "usage": {},
    "fixed": {"zero_proportion": 0.9},
    "learned": {"zero_proportion": sws.BetaHyperprior(50.0, 3.0)},
    "grid": {"codebook": "uniform", "mean_bits": 8},
    "rounded": {"mean_bits": 6},
}


@pytest.fixture(params=FORMS)
def priors(request, rng):
    """Three mixtures over other weights; in the last one a component has died."""
    made = []
    for scale in (0.1, 0.3, 2.0):
        prior = sws.GaussianMixturePrior(5, **FORMS[request.param])
        prior.fit_initial([rng.normal(0, scale, (30, 4)).astype("float32")])
        prior.members.assign(rng.uniform(1, 50, 5).astype("float32"))
        made.append(prior)
    made[-1].set_mixture(made[-1].mixture().select(np.arange(5) != 3), np.array([0, 1, 2, 4]))
    return made


def loss(form, mixtures, state, sizes):
    """A number on which all of a mixture has an effect."""
    alive = mixtures.log_proportions > -1e29
    # The proportions of a dead component are no number to add.
    logs = keras.ops.where(alive, mixtures.log_proportions, 0.0)
    slots = np.arange(1.0, 6.0, dtype="float32")
    fields = mixtures.means + 0.1 * mixtures.log_precisions + logs
    hyper = form.hyperprior_loss(mixtures, state, sizes)
    return keras.ops.sum(slots * fields) + 1e-3 * hyper


def test_mixtures_together_are_those_alone_with_the_same_gradients(priors):
    form, sizes = priors[0].form, [120, 7000, 33]
    variables = [prior.trained.value for prior in priors]
    with tf.GradientTape(persistent=True) as tape:
        state = stack([prior.state() for prior in priors])
        together = form.tensors(state)
        of_all = loss(form, together, state, sizes)
        alone = [prior.tensors() for prior in priors]
        of_each = sum(
            loss(form, mixture, prior.state(), size)
            for mixture, prior, size in zip(alone, priors, sizes, strict=True)
        )
    for one, other in zip(unstack(together), alone, strict=True):
        for field, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(field, expected)
    np.testing.assert_allclose(of_all, of_each, rtol=1e-6)
    gradients = tape.gradient(of_all, variables), tape.gradient(of_each, variables)
    for one, other in zip(*gradients, strict=True):
        assert np.any(one)
        # Vectorised exp and log round otherwise by one bit, which alpha, up to 2e4, multiplies.
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)
