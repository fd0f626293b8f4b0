"""What the callback warns of at the end of `fit`, and that a good training warns of nothing."""

import keras
import numpy as np
import pytest
import tf_keras
from families import sequential

import tfmot_sws as sws
from tfmot_sws.training.health import find_problems

LIBRARIES = {"keras": keras, "tf_keras": tf_keras}
X = np.random.default_rng(0).standard_normal((512, 16)).astype("float32")
Y = (X[:, :3].sum(axis=1) > 0).astype("float32")


@pytest.fixture(scope="module", params=LIBRARIES)
def pretrained(request):
    """A function that gives the wrapped model of a network that tells the classes apart."""
    library = LIBRARIES[request.param]
    loss = library.losses.BinaryCrossentropy(from_logits=True)
    library.utils.set_random_seed(0)
    relu = library.layers.Dense(32, activation="relu")
    model = library.Sequential([library.Input((16,)), relu, library.layers.Dense(1)])
    model.compile(library.optimizers.Adam(1e-2), loss)
    model.fit(X, Y, epochs=5, verbose=0)
    weights = model.get_weights()

    def wrap(complexity_weight=None, learning_rate=1e-2):
        model.set_weights(weights)
        shared = sws.apply_soft_weight_sharing(
            model, num_components=8, complexity_weight=complexity_weight
        )
        shared.compile(library.optimizers.Adam(learning_rate), loss)
        return shared

    return wrap


def fit(shared, epochs, x=X, y=Y, **settings):
    callback = sws.AnnealAndMerge(**settings)
    shared.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback])
    return float(shared.sharing.lost_share.value)


# Warnings are errors here.
@pytest.mark.slow
def test_a_good_training_warns_of_nothing(pretrained):
    shared = pretrained()
    assert fit(shared, 12) < 0.1
    assert 0 < float(shared.sharing.first_loss.value) < 0.1
    zeros = [w == 0 for w in sws.strip_soft_weight_sharing(shared).get_weights() if w.ndim > 1]
    assert np.mean(np.concatenate([z.ravel() for z in zeros])) > 0.5


@pytest.mark.slow
def test_far_too_large_a_tau_is_told(pretrained):
    shared = pretrained(complexity_weight=1e4)
    with pytest.warns(UserWarning, match=r"9\d%|100%") as caught:
        lost = fit(shared, 6)
    assert lost > 0.9
    (text,) = (str(w.message) for w in caught if "had learned" in str(w.message))
    assert text.startswith(f"The outputs of '{shared.name}' hardly depend on its inputs")
    assert "a smaller complexity_weight than 1e+04" in text


def test_weights_that_are_not_snapped_are_told(pretrained):
    shared = pretrained()
    with pytest.warns(UserWarning, match="only 50% of the way to their clusters"):
        fit(shared, 1, snap=lambda fraction: min(fraction, 0.5), complexity=lambda _: 0.0)


# It warns of both: the weights are not snapped, and a part is lost.
@pytest.mark.filterwarnings("ignore:The weights are only 0% of the way:UserWarning")
def test_the_share_lost_is_of_what_could_be_lost(pretrained):
    """From the loss before to that of outputs that have nothing to do with the inputs."""
    shared = pretrained()
    shared.sharing.first_loss.assign(0.05)
    # Weights are not clustered, but a part of the outputs is gone.
    for variable in shared.groups[-1].variables:
        variable.assign(0.2 * np.asarray(variable))
    settings = {"snap": lambda _: 0.0, "complexity": lambda _: 0.0, "merge_start": 1.0}
    shared.compile(type(shared.optimizer)(1e-9), shared.loss)
    with pytest.warns(UserWarning, match="ends far above where it began"):
        lost = fit(shared, 1, **settings)
    drawn = shared.batches[:4]

    def entropy(x, y):
        logits = np.ravel(shared.inner(x)).astype("float64")
        return np.mean(np.logaddexp(0, logits) - y * logits)

    now = np.mean([entropy(x, y) for x, y, _ in drawn])
    by_chance = np.mean([entropy(x, np.roll(y, 1)) for x, y, _ in drawn])
    assert lost == pytest.approx((now - 0.05) / (by_chance - 0.05), rel=1e-3)


def test_a_loss_that_has_fallen_is_no_loss(pretrained):
    shared = pretrained()
    shared.sharing.first_loss.assign(0.5)
    assert fit(shared, 6) == 0


@pytest.mark.parametrize(
    ("snap", "lost", "beginnings"),
    [
        (1.0, 0.19, []),
        (1.0, 0.21, ["The error loss of"]),
        (1.0, 0.91, ["The outputs of"]),
        (0.99, 0.0, ["The weights are only 99%"]),
        (0.0, 0.5, ["The weights are only 0%", "The error loss of"]),
    ],
)
def test_problems(snap, lost, beginnings):
    shared = sws.apply_soft_weight_sharing(sequential(), complexity_weight=0.25)
    shared.snap.assign(snap)
    shared.sharing.lost_share.assign(lost)
    problems = find_problems(shared, [shared])
    assert len(problems) == len(beginnings)
    for problem, beginning in zip(problems, beginnings, strict=True):
        assert problem.startswith(beginning)
    assert all(f"{lost:.0%}" in p and "0.25" in p for p in problems if "learned" in p)


# Where the loss by chance cannot be known.


@keras.saving.register_keras_serializable(package="tfmot_sws_tests")
class Reconstruct(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(keras.ops.square(inputs[0] - inputs[1])))
        return inputs[1]


def test_models_with_losses_of_their_own_alone():
    inputs = keras.Input((16,))
    model = keras.Model(inputs, Reconstruct()([inputs, keras.layers.Dense(16)(inputs)]))
    kernel = model.layers[1].kernel
    kernel.assign(np.eye(16))
    shared = sws.apply_soft_weight_sharing(
        model, num_components=4, complexity_weight=1e-4, rounding=False
    )
    shared.compile("adam")
    assert fit(shared, 2, y=None) == 0
    assert 0 < float(shared.sharing.first_loss.value) < 1e-2
    assert np.all(np.asarray(shared.groups[0].prior.sensitivities) > 0)


def test_targets_that_are_all_alike(pretrained):
    shared = pretrained()
    shared.sharing.first_loss.assign(1e-6)
    assert fit(shared, 2, y=np.ones_like(Y)) == 0


def test_a_training_that_has_diverged_is_told_so_and_no_more(pretrained):
    shared = pretrained()
    with pytest.warns(UserWarning, match="NaN") as caught:
        fit(shared, 2, x=np.full_like(X, np.nan))
    messages = [str(w.message) for w in caught if w.category is sws.SoftWeightSharingWarning]
    assert len(messages) == 1
    assert messages[0].startswith("The loss became NaN")
    variables = shared.optimizer.variables
    for variable in variables() if callable(variables) else variables:
        assert np.all(np.isfinite(variable.numpy()))
