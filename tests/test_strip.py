"""Stripping: what it gives, what it leaves alone, what it turns down."""

import keras
import numpy as np
import pytest
from families import RANDOM_NETWORKS, functional, sequential

import tfmot_sws as sws

pytestmark = RANDOM_NETWORKS


@pytest.fixture
def shared(rng):
    keras.utils.set_random_seed(7)
    wrapped = sws.apply_soft_weight_sharing(functional(), num_components=5)
    wrapped.compile("adam", "mse")
    x = rng.standard_normal((32, 8, 8, 3)).astype("float32")
    y = rng.standard_normal((32, 3)).astype("float32")
    wrapped.fit(x, y, epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge()])
    return wrapped


def test_zero_is_exactly_zero_and_dominates(shared):
    plain = sws.strip_soft_weight_sharing(shared)
    kernel = np.asarray(plain.layers[1].kernel)
    assert np.mean(kernel == 0.0) > 0.2
    assert not np.any(np.signbit(kernel[kernel == 0.0]))


def test_values_follow_the_reference_assignment(shared):
    plain = sws.strip_soft_weight_sharing(shared)
    targets = {v.path: np.asarray(v) for v in plain.weights}
    for group in shared.groups:
        mixture, widths = group.prior.mixture(), np.asarray(group.prior.widths.value)
        for source, width in zip(group.variables, widths, strict=True):
            expected = mixture.means[mixture.assign(np.asarray(source), width)]
            np.testing.assert_allclose(targets[source.path], expected, rtol=1e-6)


def test_what_is_not_trained_is_copied(shared):
    plain = sws.strip_soft_weight_sharing(shared, keep_statistics=True)
    pairs = zip(shared.inner.variables, plain.variables, strict=True)
    kept = [(source, target) for source, target in pairs if not source.trainable]
    assert len(kept) >= 3
    for source, target in kept:
        np.testing.assert_array_equal(np.asarray(source), np.asarray(target))


def test_wrapped_model_stays_usable(shared):
    before = [np.asarray(v) for v in shared.variables]
    plain = sws.strip_soft_weight_sharing(shared)
    plain.layers[1].kernel.assign(np.zeros(plain.layers[1].kernel.shape))
    for variable, value in zip(shared.variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)


def test_before_training_is_turned_down():
    with pytest.raises(ValueError, match=r"has not been trained.*fit\("):
        sws.strip_soft_weight_sharing(sws.apply_soft_weight_sharing(sequential()))


def test_training_without_the_callback_is_told_apart_from_none():
    wrapped = sws.apply_soft_weight_sharing(sequential(), train_size=32)
    wrapped.compile("adam", "mse")
    x = np.zeros((32, 10), "float32")
    wrapped.train_on_batch(x, x[:, :3])
    with pytest.raises(ValueError, match=r"was trained, but.*steps_per_execution=1"):
        sws.strip_soft_weight_sharing(wrapped)


def test_twice_is_turned_down(shared):
    plain = sws.strip_soft_weight_sharing(shared)
    with pytest.raises(TypeError, match="stripped already is plain"):
        sws.strip_soft_weight_sharing(plain)


def test_codebooks_decode_to_the_weights_also_after_reload(shared, tmp_path):
    plain = sws.strip_soft_weight_sharing(shared)
    plain.save(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "plain.keras")
    books = sws.get_codebooks(loaded)
    kernels = {v.path: np.asarray(v) for v in loaded.weights if v.path.endswith("kernel")}
    assert set(kernels) <= set(books)
    for path, kernel in kernels.items():
        np.testing.assert_array_equal(books[path].decode(), kernel)
        assert books[path].codebook.size <= 5


def test_codebooks_of_a_wrapped_model_are_turned_down(shared):
    with pytest.raises(TypeError, match="A stripped model is expected"):
        sws.get_codebooks(shared)


def test_adapted_normalisation_computes_the_same(rng):
    x = (3 + 2 * rng.standard_normal((64, 4))).astype("float32")
    normalise = keras.layers.Normalization()
    normalise.adapt(x)
    model = keras.Sequential([keras.Input((4,)), normalise, keras.layers.Dense(2)])
    wrapped = sws.apply_soft_weight_sharing(model, num_components=3)
    wrapped.compile("adam", "mse")
    wrapped.fit(x, x[:, :2], epochs=1, verbose=0, callbacks=[sws.AnnealAndMerge()])
    wrapped.snap.assign(1.0)
    plain = sws.strip_soft_weight_sharing(wrapped)
    np.testing.assert_allclose(plain(x), wrapped(x), rtol=1e-5, atol=1e-6)
