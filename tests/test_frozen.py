"""Layers frozen or unfrozen, and weights added, after a model was wrapped."""

import keras
import numpy as np
import pytest
import tf_keras

import tfmot_sws as sws

X = np.zeros((8, 4), "float32")


def wrap(library, *, trainable=True):
    first = library.layers.Dense(3, name="first", trainable=trainable)
    model = library.Sequential([library.Input((4,)), first, library.layers.Dense(2)])
    shared = sws.apply_soft_weight_sharing(model, num_components=3)
    return model, shared


def train(library, shared):
    shared.compile(library.optimizers.SGD(0.1), "mse")
    shared.fit(X, X[:, :2], verbose=0, callbacks=[sws.AnnealAndMerge()])


@pytest.mark.parametrize("library", [keras, tf_keras])
@pytest.mark.parametrize("trainable", [True, False])
def test_changes_of_trainable_are_refused_by_fit(library, trainable):
    model, shared = wrap(library, trainable=trainable)
    model.layers[0].trainable = not trainable
    word = "frozen" if trainable else "made trainable"
    with pytest.raises(ValueError, match=f"first/kernel' was {word}.*strip the model first"):
        train(library, shared)
    with pytest.raises(ValueError, match="first/kernel"):
        shared.train_on_batch(X, X[:, :2])


def test_weights_added_after_wrapping_are_refused_by_everything(tmp_path):
    model, shared = wrap(keras)
    model.layers[0].enable_lora(2)
    for use in (
        lambda: train(keras, shared),
        lambda: sws.strip_soft_weight_sharing(shared),
        lambda: shared.save(tmp_path / "shared.keras"),
    ):
        with pytest.raises(ValueError, match=r"had 4 weights when .*, and has 6 now.*enable_"):
            use()
    assert not list(tmp_path.iterdir())
