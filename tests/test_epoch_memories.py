"""Callbacks that look for the best epoch, beside `AnnealAndMerge`."""

import keras
import numpy as np
import pytest
import tf_keras

import tfmot_sws as sws
from tfmot_sws.training.epoch_memories import EpochMemories
from tfmot_sws.training.schedules import constant, linear

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* of what it had learned is lost:UserWarning"),
    pytest.mark.parametrize("library", [keras, tf_keras]),
]


def fit(library, callback, annealer=None):
    """A wrapped model after `fit` with a callback that sees each epoch worse than the last."""

    class Worse(library.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = float(epoch)

    library.utils.set_random_seed(0)
    model = library.Sequential([library.Input((8,)), library.layers.Dense(3)])
    shared = sws.apply_soft_weight_sharing(model, num_components=4, complexity_weight=1e-6)
    shared.compile(library.optimizers.SGD(0.05), "mse")
    x = np.random.default_rng(0).standard_normal((64, 8)).astype("float32")
    callbacks = [Worse(), callback, annealer or sws.AnnealAndMerge()]
    history = shared.fit(x, x[:, :3], epochs=10, callbacks=callbacks, verbose=0)
    return shared, history.history


def test_early_stopping_waits_for_the_finished_rule(library):
    stopper = library.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    shared, history = fit(library, stopper)
    # The epoch that ends at 70 % is the best of those that count; the next is one too many.
    assert stopper.best == 6.0
    assert len(history["loss"]) == 8
    assert float(np.asarray(shared.snap)) == 1.0


def test_without_a_better_epoch_the_rate_falls_after_the_rule_is_fixed(library):
    plateau = library.callbacks.ReduceLROnPlateau(patience=1, factor=0.5, min_delta=0.0)
    _, history = fit(library, plateau)
    rates = history["learning_rate" if "learning_rate" in history else "lr"]
    np.testing.assert_allclose(rates[:8], 0.05, rtol=1e-6)
    assert rates[8] == pytest.approx(0.025)


def test_best_checkpoint_is_one_of_the_finished_rule(library, tmp_path):
    path = str(tmp_path / "best.weights.h5")
    keep = library.callbacks.ModelCheckpoint(path, save_best_only=True, save_weights_only=True)
    shared, _ = fit(library, keep)
    assert keep.best == 6.0
    shared.load_weights(path)
    assert float(np.asarray(shared.snap)) == 1.0


def test_a_late_snap_is_waited_for(library):
    stopper = library.callbacks.EarlyStopping(patience=1)
    late = sws.AnnealAndMerge(snap=linear(0.0, 1.0, start=0.1, end=0.85))
    _, history = fit(library, stopper, late)
    assert len(history["loss"]) == 10


def test_one_that_never_snaps_is_not_waited_for(library):
    stopper = library.callbacks.EarlyStopping(patience=1)
    with pytest.warns(UserWarning, match="snap"):
        _, history = fit(library, stopper, sws.AnnealAndMerge(snap=constant(0.0)))
    assert len(history["loss"]) == 8


def test_others_are_left_alone(library):
    other = library.callbacks.Callback()
    other.best = other.wait = 3
    memories = EpochMemories([other])
    memories.take()
    other.best = 4
    memories.forget()
    assert (other.best, other.wait) == (4, 3)
