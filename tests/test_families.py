"""Every model family end to end: wrap, fit, save, load, strip, export."""

import keras
import numpy as np
import pytest
from families import FAMILIES, GENTLE, RANDOM_NETWORKS, Subclassed

import tfmot_sws as sws
from tfmot_sws.litert.interpreter import run_tflite

pytestmark = RANDOM_NETWORKS


def _outputs(model, inputs):
    return keras.tree.flatten(model.predict(inputs, verbose=0))


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def trained(request, tmp_path_factory):
    """A wrapped model after two epochs, the same one reloaded, inputs, and first outputs."""
    keras.utils.set_random_seed(1)
    family = FAMILIES[request.param]
    generator = np.random.default_rng(0)
    inputs, targets = family.make_inputs(generator), family.make_targets(generator)
    model = family.build()
    before = _outputs(model, inputs)
    shared = sws.apply_soft_weight_sharing(model, **GENTLE)
    wrapped = _outputs(shared, inputs)
    shared.compile("adam", loss="mse")
    shared.fit(
        inputs, targets, epochs=2, batch_size=8, verbose=0, callbacks=[sws.AnnealAndMerge()]
    )
    path = tmp_path_factory.mktemp("models") / "shared.keras"
    shared.save(path)
    return shared, keras.models.load_model(path), inputs, (before, wrapped)


def test_wrapping_leaves_predictions_unchanged(trained):
    before, wrapped = trained[3]
    for first, second in zip(before, wrapped, strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)


def test_reloaded_model_predicts_the_same(trained):
    shared, loaded, inputs, _ = trained
    for first, second in zip(_outputs(shared, inputs), _outputs(loaded, inputs), strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)


def test_stripping_after_reload_gives_the_same_weights(trained):
    shared, loaded, _, _ = trained
    first = sws.strip_soft_weight_sharing(shared).get_weights()
    second = sws.strip_soft_weight_sharing(loaded).get_weights()
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_stripped_weights_are_codebook_values(trained):
    shared = trained[0]
    plain = sws.strip_soft_weight_sharing(shared)
    values = {np.float32(m) for g in shared.groups for m in g.prior.mixture().means}
    for choice, weights in zip(shared.weight_choices, plain.weights, strict=True):
        if choice.shared:
            assert set(np.unique(np.asarray(weights))) <= values
    assert 0.0 in values
    assert max(np.unique(np.asarray(w)).size for w in plain.weights if len(w.shape) > 1) > 2


def test_stripped_model_is_plain(trained):
    shared = trained[0]
    plain = sws.strip_soft_weight_sharing(shared)
    assert type(plain) is type(shared.inner)
    assert plain.name == shared.inner.name
    assert not plain.compiled
    assert [w.shape for w in plain.weights] == [w.shape for w in shared.inner.weights]
    assert [w.name for w in plain.weights] == [w.name for w in shared.inner.weights]
    if plain.get_config().get("layers"):
        assert [x.name for x in plain.layers] == [x.name for x in shared.inner.layers]


def test_stripped_predictions_are_those_of_training(trained):
    shared, _, inputs, _ = trained
    shared.snap.assign(1.0)
    plain = sws.strip_soft_weight_sharing(shared)
    for first, second in zip(_outputs(shared, inputs), _outputs(plain, inputs), strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)


# Two families have BatchNorm behind a shared kernel.
@pytest.mark.filterwarnings("ignore:BatchNorm layers:UserWarning")
def test_litert_agrees(trained):
    shared, _, inputs, _ = trained
    if keras.backend.backend() != "tensorflow" and not isinstance(shared.inner, Subclassed):
        pytest.skip("another process converts: the hardest family is enough")
    plain = sws.strip_soft_weight_sharing(shared)
    tflite = sws.convert_to_tflite(plain, sample=inputs)
    expected = _outputs(plain, inputs)
    for actual, e in zip(run_tflite(tflite, inputs), expected, strict=True):
        np.testing.assert_allclose(actual, e, rtol=1e-4, atol=1e-5)


def test_resumes_after_reload(trained):
    _, loaded, inputs, _ = trained
    targets = keras.tree.map_structure(
        lambda array: np.zeros((len(array), 3), "float32"),
        {"first": inputs["vector"], "second": inputs["vector"]}
        if isinstance(inputs, dict)
        else inputs,
    )
    before = int(loaded.optimizer.iterations)
    callbacks = [sws.AnnealAndMerge()]
    loaded.fit(inputs, targets, initial_epoch=2, epochs=3, verbose=0, callbacks=callbacks)
    assert int(loaded.optimizer.iterations) > before
