"""AnnealAndMerge: schedules by training fraction, logs, merging, and NaN."""

import csv

import keras
import numpy as np
import pytest
import tf_keras
from families import RANDOM_NETWORKS, sequential

import tfmot_sws as sws
from tfmot_sws.training import anneal, schedules
from tfmot_sws.training.merging import merge_components

pytestmark = RANDOM_NETWORKS


@pytest.fixture
def data(rng):
    x = rng.standard_normal((64, 10)).astype("float32")
    return x, (x[:, :3] * 2).astype("float32")


def wrap(**settings):
    keras.utils.set_random_seed(5)
    wrapped = sws.apply_soft_weight_sharing(
        sequential(), num_components=6, complexity_weight=0.05, **settings
    )
    wrapped.compile(keras.optimizers.Adam(1e-2), "mse")
    return wrapped


@pytest.fixture
def shared():
    return wrap()


class Recorder(keras.callbacks.Callback):
    """What the wrapper's variables held at each batch."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_end(self, batch, logs=None):
        model = self.model
        self.rows.append([float(model.complexity_weight.value), float(model.snap.value)])


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_schedules_follow_the_training_fraction(shared, data, epochs):
    recorder = Recorder()
    callback = sws.AnnealAndMerge(
        complexity=schedules.linear(0.0, 2.0), snap=schedules.linear(0.0, 1.0, end=0.5)
    )
    shared.fit(*data, epochs=epochs, batch_size=16, verbose=0, callbacks=[callback, recorder])
    fractions = np.arange(4 * epochs) / (4 * epochs)
    expected = np.stack([0.05 * 2 * fractions, np.minimum(2 * fractions, 1)], axis=1)
    np.testing.assert_allclose(recorder.rows, expected, rtol=1e-5, atol=1e-7)


def test_widths_reach_the_prior(shared, data):
    callback = sws.AnnealAndMerge(
        stddev=schedules.constant(3.0), assignment=schedules.constant(0.5)
    )
    shared.fit(*data, epochs=1, verbose=0, callbacks=[callback])
    for prior in (group.prior for group in shared.groups):
        scale, options = float(prior.scale.value), prior.options
        targets = [3 * scale * options.zero.stddev, 3 * scale * options.others.stddev]
        np.testing.assert_allclose(prior.target_stddevs.value, targets, rtol=1e-5)
        limit = options.assignment_width * np.asarray(prior.tensor_scales.value)
        sensitivities = np.asarray(prior.sensitivities.value)
        by_curvature = np.sqrt(options.width_gain * 0.05 / 64 / sensitivities)
        # Two steps: widths are narrower by the root of their share of 1,000.
        factor = 0.5 * np.sqrt(2 / 1000) * np.asarray(prior.narrowing.value)
        expected = factor * np.minimum(limit, by_curvature)
        np.testing.assert_allclose(prior.widths.value, expected, rtol=1e-5)


def test_logs_reach_callbacks_listed_before(shared, data, tmp_path):
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    shared.fit(*data, epochs=2, verbose=0, callbacks=[log, sws.AnnealAndMerge()])
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        total = float(row["error_loss"]) + float(row["complexity_loss"])
        assert total == pytest.approx(float(row["loss"]), rel=1e-4)


def test_logs_tell_zeros_and_bits_as_counted(shared, data):
    history = shared.fit(*data, epochs=3, verbose=0, callbacks=[sws.AnnealAndMerge()]).history
    zeros, bits, total, alive = 0, 0.0, 0, 0
    for prior, variables in ((group.prior, group.variables) for group in shared.groups):
        slots = np.concatenate(
            [np.ravel(i) for i in prior.assign([v.value for v in variables])]
        )
        counts = np.unique(slots, return_counts=True)[1]
        zeros += np.sum(slots == 0)
        bits -= np.sum(counts * np.log2(counts / slots.size))
        total += slots.size
        alive += prior.alive_slots.size
    assert history["zeros"][-1] == pytest.approx(zeros / total)
    assert history["bits_per_weight"][-1] == pytest.approx(bits / total)
    assert history["num_components"][-1] == alive


def test_unused_components_die_and_twins_merge(data):
    shared = wrap(scope="model", zero_proportion=0.5, rounding=False)
    prior = shared.groups[0].prior
    twins = sws.GaussianMixture(
        [0, 0.3, 0.3005, -0.3, 40.0, 50.0], [0.05] * 6, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    )
    prior.set_mixture(twins, np.arange(6))
    prior.set_widths(assignment=0.1)
    callback = sws.AnnealAndMerge(merge_start=0.0, merge_threshold=0.1)
    shared.compile(keras.optimizers.SGD(0.0), "mse")
    shared.fit(*data, epochs=1, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(prior.mixture().means, [0, 0.30025, -0.3], atol=1e-4)
    np.testing.assert_array_equal(prior.alive_slots, [0, 1, 3])


def test_a_merged_component_has_the_members_of_both():
    """By their number its mean's gradient is averaged, from the very next step on."""
    prior = sws.GaussianMixturePrior(5)
    mixture = sws.GaussianMixture(
        [0, 0.3, 9.0, 0.3005, -0.3], [0.05] * 5, [0.5, 0.1, 0.1, 0.2, 0.1]
    )
    prior.set_mixture(mixture, np.arange(5))
    prior.members.assign([7.0] * 5)
    merge_components(prior, np.array([500, 3, 0, 40, 10]), 0.1)
    np.testing.assert_array_equal(prior.alive_slots, [0, 1, 4])
    np.testing.assert_array_equal(prior.members.value, [500, 43, 0, 0, 10])


@pytest.mark.parametrize(("epochs", "batch_size"), [(40, 64), (8, 16), (1, 2)])
def test_merging_is_tried_once_in_a_twentieth_of_the_training(
    epochs, batch_size, shared, data, monkeypatch
):
    """However many steps an epoch has."""
    tried = []

    def merge(prior, counts, threshold):
        assert counts.size == prior.num_components
        tried.append(threshold)

    monkeypatch.setattr(anneal, "merge_components", merge)
    callback = sws.AnnealAndMerge(merge_start=0.3, rule_end=0.6, merge_threshold=0.25)
    shared.fit(*data, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=[callback])
    fractions = np.arange(40 if batch_size == 64 else 32) / (40 if batch_size == 64 else 32)
    within = fractions[(fractions >= 0.3) & (fractions <= 0.6)]
    # In each of two layers.
    assert tried == [0.25] * 2 * np.unique(np.floor(20 * within + 1e-9)).size


def test_nothing_dies_before_merge_start(shared, data):
    callback = sws.AnnealAndMerge(merge_start=1.0)
    shared.fit(*data, epochs=3, verbose=0, callbacks=[callback])
    assert [group.prior.alive_slots.size for group in shared.groups] == [6, 6]


def test_nan_stops_training_and_brings_the_last_good_state_back(shared, data):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.good = [np.asarray(v) for v in self.model.trainable_variables]
            if epoch == 1:
                kernel = self.model.groups[0].variables[0]
                kernel.assign(np.full(kernel.shape, np.nan))

    callbacks = [sws.AnnealAndMerge(merge_start=1.0), Poison()]
    with pytest.warns(UserWarning, match=r"NaN or infinite in epoch 2: training stops"):
        shared.fit(*data, epochs=5, verbose=0, callbacks=callbacks)
    assert len(shared.history.epoch) == 2
    for variable, good in zip(shared.trainable_variables, shared.good, strict=True):
        assert np.all(np.isfinite(good))
        np.testing.assert_array_equal(np.asarray(variable), good)
    assert np.isfinite(shared.evaluate(*data, verbose=0))


def test_nan_within_an_epoch_in_which_components_merge(shared, data):
    """Where a step ends in NaN, the callback still goes through the rest of the epoch."""
    x, y = data
    shared.fit(*data, verbose=0, epochs=2, callbacks=[sws.AnnealAndMerge()])
    good = [np.asarray(v) for v in shared.inner.weights]
    arguments = {"epochs": 3, "batch_size": 4, "verbose": 0}
    with pytest.warns(UserWarning, match="NaN or infinite in epoch 1: training stops"):
        shared.fit(
            np.full_like(x, np.nan),
            y,
            callbacks=[sws.AnnealAndMerge(merge_start=0.0)],
            **arguments,
        )
    for variable, value in zip(shared.inner.weights, good, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)


def test_a_rate_beyond_all_bounds_ends_like_nan(shared, data):
    """Weights and precisions overflow; then the optimizer's state is back, too."""

    class Overflow(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.good = [np.asarray(v) for v in self.model.optimizer.variables]
                self.model.optimizer.learning_rate = 1e38

    usual = float(shared.optimizer.learning_rate)
    arguments = {"epochs": 3, "batch_size": 4, "verbose": 0}
    callbacks = [sws.AnnealAndMerge(merge_start=0.0), Overflow()]
    with pytest.warns(UserWarning, match="NaN or infinite in epoch 2: training stops"):
        shared.fit(*data, callbacks=callbacks, **arguments)
    for variable, good in zip(shared.optimizer.variables, shared.good, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), good)
    assert float(shared.optimizer.learning_rate) == usual
    history = shared.fit(*data, callbacks=[sws.AnnealAndMerge()], **arguments)
    assert len(history.epoch) == 3
    assert np.all(np.isfinite(history.history["loss"]))


def test_plain_model_is_turned_down(data):
    model = sequential()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="works on a model wrapped by apply_soft"):
        model.fit(*data, verbose=0, callbacks=[sws.AnnealAndMerge()])


def test_a_class_is_no_callback(shared, data):
    with pytest.raises(TypeError, match=r"write AnnealAndMerge\(\.\.\.\) in its place"):
        shared.fit(*data, verbose=0, callbacks=[sws.AnnealAndMerge])


# The weights never reach their clusters, of which the end of fit and strip warn.
HALF = schedules.linear(0.0, 0.5)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_warnings_point_at_the_line_of_the_user(library, data):
    layers = library.layers
    model = library.Sequential([layers.Input((10,)), layers.Dense(8), layers.Dense(3)])
    shared = sws.apply_soft_weight_sharing(model)
    shared.compile("sgd", "mse")
    for use in (
        lambda: shared.fit(*data, epochs=2, verbose=0),  # Without a callback.
        lambda: shared.fit(*data, epochs=2, verbose=0, callbacks=sws.AnnealAndMerge(snap=HALF)),
        lambda: sws.strip_soft_weight_sharing(shared),
    ):
        with pytest.warns(sws.SoftWeightSharingWarning) as caught:
            use()
        ours = [w for w in caught if w.category is sws.SoftWeightSharingWarning]
        first = use.__code__.co_firstlineno
        assert {(w.filename, w.lineno) for w in ours} == {(__file__, first)}


@pytest.mark.parametrize(
    "arguments", [{"merge_threshold": -1}, {"merge_start": 2.0}, {"rule_end": -0.1}]
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must"):
        sws.AnnealAndMerge(**arguments)


def test_resumed_fit_starts_at_its_fraction(shared, data):
    recorder = Recorder()
    callback = sws.AnnealAndMerge(snap=schedules.linear(0.0, 1.0))
    with pytest.warns(UserWarning, match="only 75% of the way to their clusters"):
        shared.fit(
            *data,
            epochs=4,
            initial_epoch=3,
            verbose=0,
            batch_size=64,
            callbacks=[callback, recorder],
        )
    assert recorder.rows[0][1] == pytest.approx(0.75)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_nan_in_the_first_epoch_of_a_first_fit_with_an_optimizer_that_has_slots(library):
    """The optimizer's slots are made by the very step that goes wrong."""
    model = library.Sequential([library.Input((4,)), library.layers.Dense(2)])
    before = model.get_weights()
    shared = sws.apply_soft_weight_sharing(model, num_components=3)
    shared.compile(library.optimizers.Adam(), "mse")
    x = np.full((8, 4), np.nan, "float32")
    with pytest.warns(UserWarning, match="NaN or infinite in epoch 1: training stops"):
        shared.fit(x, x[:, :2], epochs=3, verbose=0, callbacks=[sws.AnnealAndMerge()])
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
