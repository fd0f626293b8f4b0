"""tf_keras (Keras 2) models end to end, and their equality with those of Keras 3."""

import keras
import numpy as np
import pytest
import tf_keras
from families import GENTLE
from tf_keras_families import BUILDERS, make_data, subclassed

import tfmot_sws as sws
from tfmot_sws.litert.file import stored_tensors
from tfmot_sws.tf_keras_adapter.variable_places import find_places

FAMILIES = sorted([*BUILDERS, "subclassed"])


def build(name):
    return subclassed() if name == "subclassed" else BUILDERS[name](tf_keras)


def fit(model, data, epochs=2, **kwargs):
    callbacks = [sws.AnnealAndMerge(), *kwargs.pop("callbacks", [])]
    return model.fit(
        *data, epochs=epochs, batch_size=8, verbose=0, callbacks=callbacks, **kwargs
    )


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    """A wrapped model after two epochs, the same one reloaded, data, first predictions."""
    tf_keras.utils.set_random_seed(1)
    data = make_data(request.param, np.random.default_rng(0))
    model = build(request.param)
    before = model(data[0]).numpy()
    shared = sws.apply_soft_weight_sharing(model, complexity_weight=1e-3, **GENTLE)
    np.testing.assert_allclose(shared(data[0]).numpy(), before, rtol=1e-5, atol=1e-6)
    shared.compile("adam", loss="mse")
    history = fit(shared, data).history
    path = tmp_path_factory.mktemp("models") / "shared.keras"
    shared.save(path)
    return shared, tf_keras.models.load_model(path), data, history


def test_logs_are_those_of_keras_3(trained):
    history = trained[3]
    assert set(history) == {
        "loss",
        "error_loss",
        "complexity_loss",
        "num_components",
        "zeros",
        "bits_per_weight",
        "snap",
    }
    assert history["snap"][-1] == 1.0


def test_variables_are_back_in_place(trained):
    shared = trained[0]
    shared(trained[2][0], training=False)
    held = find_places(shared.inner)
    assert all(id(v.value) in held for group in shared.groups for v in group.variables)


def test_reloaded_model_is_the_same(trained):
    shared, loaded, (x, _), _ = trained
    assert type(loaded) is type(shared)
    np.testing.assert_allclose(loaded(x), shared(x), rtol=1e-5, atol=1e-6)
    first = sws.strip_soft_weight_sharing(shared).get_weights()
    second = sws.strip_soft_weight_sharing(loaded).get_weights()
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_stripped_model_is_plain_and_clustered(trained):
    shared, _, (x, _), _ = trained
    plain = sws.strip_soft_weight_sharing(shared)
    assert type(plain) is type(shared.inner)
    assert not plain._is_compiled
    values = {np.float32(m) for g in shared.groups for m in g.prior.mixture().means}
    for choice, weights in zip(shared.weight_choices, plain.get_weights(), strict=True):
        if choice.shared:
            assert set(np.unique(weights)) <= values
    assert max(np.unique(w).size for w in plain.get_weights() if w.ndim > 1) > 2
    np.testing.assert_allclose(plain(x), shared(x), rtol=1e-5, atol=1e-6)


def test_report_and_file(trained, tmp_path):
    plain = sws.strip_soft_weight_sharing(trained[0])
    report = sws.compression_report(plain)
    assert len(report.tensors) == len(plain.weights)
    assert set(sws.get_codebooks(plain)) <= {t.path for t in report.tensors}
    sws.save_compressed(plain, tmp_path / "model.sws")
    loaded = sws.load_compressed(tmp_path / "model.sws")
    assert type(loaded) is type(plain)
    for one, other in zip(plain.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# Two families have BatchNorm behind a shared kernel.
@pytest.mark.filterwarnings("ignore:BatchNorm layers:UserWarning")
@pytest.mark.parametrize("weights", ["float32", "int8_codebook"])
def test_litert_agrees(trained, weights):
    plain = sws.strip_soft_weight_sharing(trained[0])
    tflite = sws.convert_to_tflite(plain, weights, sample=trained[2][0])
    assert sws.verify_tflite(tflite, plain, trained[2][0]).difference < 0.1


def test_clusters_behind_batch_norm_are_stored_as_integers(rng):
    model = BUILDERS["functional"](tf_keras)
    for variable in model.variables:
        variable.assign(rng.uniform(0.3, 1.5, variable.shape))
    kernel = model.layers[1].kernel
    kernel.assign(rng.choice(np.float32([-0.3, 0, 0.17, 0.4]), kernel.shape))
    x = make_data("functional", rng)[0]
    tflite = sws.convert_to_tflite(model, "int8_codebook", sample=x)
    (kernel,) = (t for t in stored_tensors(tflite) if len(t.shape) == 4)
    assert (kernel.dtype, kernel.distinct) == ("int8", 4)
    with pytest.warns(UserWarning, match="'int8_codebook' keep the clusters"):
        exact = sws.convert_to_tflite(sws.place_on_int8_grid(model), sample=x)
    np.testing.assert_allclose(
        sws.predict_tflite(tflite, x), sws.predict_tflite(exact, x), rtol=1e-5, atol=1e-5
    )


def test_resumes_after_reload(trained):
    _, loaded, data, _ = trained
    before = int(loaded.optimizer.iterations)
    fit(loaded, data, epochs=1)
    assert int(loaded.optimizer.iterations) == before + 4


# Equality with Keras 3.


def train_either(library, name, optimizer):
    """History and stripped weights of one family after training, in Keras 3 or tf_keras."""
    data = make_data(name, np.random.default_rng(0))
    keras.utils.set_random_seed(5)
    model = BUILDERS[name](keras)
    if library is tf_keras:
        copy = BUILDERS[name](tf_keras)
        copy.set_weights(model.get_weights())
        model = copy
    # Without rounding where there is BatchNorm: the libraries' moving variances differ by
    # n / (n - 1), and so would which of two neighbours some numbers are rounded to.
    shared = sws.apply_soft_weight_sharing(
        model, complexity_weight=0.01, rounding=name != "functional", **GENTLE
    )
    shared.compile(optimizer(library), loss="mse")
    history = fit(shared, data, epochs=4, shuffle=False).history
    return history, sws.strip_soft_weight_sharing(shared).get_weights()


OPTIMIZERS = {
    "sgd": lambda k: k.optimizers.SGD(0.02, momentum=0.9),
    "adam": lambda k: k.optimizers.Adam(1e-3),
}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("sequential", "sgd"),
        ("sequential", "adam"),
        ("functional", "sgd"),
        ("recurrent", "adam"),
    ],
)
def test_equals_keras_3(name, optimizer):
    theirs, their_weights = train_either(keras, name, OPTIMIZERS[optimizer])
    ours, our_weights = train_either(tf_keras, name, OPTIMIZERS[optimizer])
    assert set(ours) == set(theirs)
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=2e-4, atol=1e-5, err_msg=key)
    for one, other in zip(our_weights, their_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
