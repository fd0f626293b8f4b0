"""Searches: what is asked for next, what is given back, and what lies in the folder."""

import functools
import json
import types

import keras
import numpy as np
import pytest
import tf_keras

import tfmot_sws as sws
from tfmot_sws.training.monitored import is_better_higher
from tfmot_sws.training.search_data import condition_on
from tfmot_sws.training.search_plan import next_ratio
from tfmot_sws.training.search_result import Trial
from tfmot_sws.training.search_state import SearchState
from tfmot_sws.training.smallest import _Search

# A network of 450 weights misses its target in a dozen steps, or forgets, and says so.
MAY_MISS = pytest.mark.filterwarnings("ignore:The file will take|.*learned is lost")


def trial(number, ratio, drop, met=None, start=0):
    """A training as it would be recorded; 0.01 worse is allowed."""
    return Trial(
        number=number,
        start=start,
        asked=ratio,
        ratio=ratio,
        size=round(10**6 / ratio),
        value=0.9 - drop,
        drop=drop,
        met=drop <= 0.01 if met is None else met,
        seconds=1.0,
        file=f"training-{number:02d}.sws",
    )


# What is asked for next.


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({}, 16),
        # What was asked for is met but for some per cent.
        ({15.99: 0.02, 7.97: 0.015}, 3.985),
        ({16: 0.0}, 32),
        ({16: 0.0, 32: 0.0}, 50),  # No more than can be had.
        ({16: 0.0, 32: 0.0, 48: 0.0}, None),  # Hardly less than that.
        ({16: 0.5}, 8),
        ({16: 0.5, 8: 0.4, 4: 0.3}, None),  # Half of 4 is not worth it.
        ({16: 0.0, 32: 0.02}, 16 * 2**0.5),
        ({16: 0.0, 32: 10.0}, 16 * 2**0.3),  # Not nearer to an end.
        ({16: 0.009, 17: 0.02}, None),
        ({16: float("nan")}, 8),
        ({16: 0.0, 32: float("nan")}, 16 * 2**0.3),
    ],
)
def test_next_ratio(ratios, expected):
    trials = [trial(i + 1, ratio, drop) for i, (ratio, drop) in enumerate(ratios.items())]
    found = next_ratio(trials, 0.01, largest=50)
    assert found == (pytest.approx(expected) if expected else None)


@pytest.mark.parametrize("limit", [7.0, 16.0, 29.0, 300.0])
@pytest.mark.parametrize("best", [3.0, 5.0, 40.0, 1000.0])
def test_a_search_ends_near_the_best(best, limit):
    """Of a network that keeps its accuracy up to a ratio, and then loses it smoothly."""
    trials = []
    while (ratio := next_ratio(trials, 0.01, limit)) is not None:
        trials.append(trial(len(trials) + 1, ratio, 0.01 * np.log(ratio) / np.log(best)))
        assert len(trials) < 12
    good = [t.ratio for t in trials if t.met]
    reachable = min(best, limit)
    if reachable >= 4.0 * 2:
        assert max(good) >= reachable / 1.15
        assert max(good) <= best * (1 + 1e-9)


@pytest.mark.parametrize(
    ("name", "is_higher"),
    [
        ("accuracy", True),
        ("val_sparse_categorical_accuracy", True),
        ("auc", True),
        ("mean_io_u", None),
        ("iou", True),
        ("loss", False),
        ("val_head_loss", False),
        ("mae", False),
        ("root_mean_squared_error", False),
        ("score", None),
    ],
)
def test_direction_by_name(name, is_higher):
    if is_higher is None:
        with pytest.raises(ValueError, match="mode='max' or mode='min'"):
            is_better_higher(name, "auto")
    else:
        assert is_better_higher(name, "auto") is is_higher
    assert is_better_higher(name, "max")
    assert not is_better_higher(name, "min")


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_a_search_trains_copies_that_compute_the_same(library, rng):
    x = (1000 * rng.random((200, 3)) + [0, 500, 9000]).astype("float32")
    normalize = library.layers.Normalization()
    normalize.adapt(x)
    model = library.Sequential([library.layers.Input((3,)), normalize, library.layers.Dense(2)])
    copy = _Search._copy(types.SimpleNamespace(model=model), None)
    np.testing.assert_array_equal(copy(x), model(x))


# A search of a small network.


def network(library, loss="mse", metrics=("mae",)):
    library.utils.set_random_seed(0)
    model = library.Sequential(
        [
            library.layers.Input((16,)),
            library.layers.Dense(64, activation="relu", name="first"),
            library.layers.Dense(2, name="last"),
        ],
        name="net",
    )
    model.compile(library.optimizers.Adam(1e-2), loss, metrics=list(metrics))
    return model


@pytest.fixture
def data(rng):
    x = rng.standard_normal((96, 16)).astype("float32")
    y = (x @ rng.standard_normal((16, 2))).astype("float32")
    return (x[:64], y[:64]), (x[64:], y[64:])


@pytest.mark.slow
@MAY_MISS
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_search_gives_the_smallest_that_is_good_enough(library, data, tmp_path, capsys):
    model = network(library)
    model.fit(*data[0], epochs=20, verbose=0)
    before = [w.copy() for w in model.get_weights()]
    baseline = model.evaluate(*data[1], verbose=0, return_dict=True)["mae"]
    result = sws.find_smallest(
        model, *data, epochs=3, max_drop=2.0, max_trainings=2, folder=tmp_path, batch_size=16
    )
    assert result.met
    assert result.metric == "mae"
    assert result.baseline == pytest.approx(baseline)
    assert len(result.trials) == 2
    assert result.chosen.size == min(t.size for t in result.trials if t.met)
    # The model is the one in the file, and as good as is said.
    plain = result.model
    for left, right in zip(
        plain.get_weights(),
        sws.load_compressed(tmp_path / result.chosen.file).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right)
    found = np.mean(np.abs(plain.predict(data[1][0], verbose=0) - data[1][1]))
    assert found == pytest.approx(result.chosen.value, rel=1e-4)
    assert found - baseline == pytest.approx(result.chosen.drop, abs=1e-4)
    # The given model is as it was.
    for left, right in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)
    said = capsys.readouterr().out
    assert "Training 2:" in said
    assert "good enough" in said
    assert str(result.chosen.number) in str(result)
    # Another call finds all trainings done.
    again = sws.find_smallest(
        model,
        *data,
        epochs=3,
        max_drop=2.0,
        max_trainings=2,
        folder=tmp_path,
        batch_size=16,
        verbose=0,
    )
    assert again.trials == result.trials
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="another search, with other batch_size, max_drop"):
        sws.find_smallest(model, *data, epochs=3, max_drop=1.0, folder=tmp_path)


@pytest.mark.slow
@MAY_MISS
def test_a_killed_search_goes_on(data, tmp_path, monkeypatch):
    model = network(keras)
    options = {"epochs": 2, "max_drop": 50.0, "max_trainings": 2, "folder": tmp_path}

    def stop(self, trials):
        write(self, trials)
        raise KeyboardInterrupt

    write = SearchState.write
    monkeypatch.setattr(SearchState, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        sws.find_smallest(model, *data, verbose=0, **options)
    monkeypatch.undo()
    first = json.loads((tmp_path / "search.json").read_text())["trials"]
    assert len(first) == 1
    result = sws.find_smallest(model, *data, verbose=0, **options)
    assert [t.number for t in result.trials] == [1, 2]
    assert result.to_dicts()[0] == first[0]
    # The second began with the network of the first, which was good enough.
    assert result.trials[1].start == 1


@MAY_MISS
def test_a_condition_that_nothing_meets_is_told(data):
    model = network(keras)
    model.fit(*data[0], epochs=5, verbose=0)
    with pytest.warns(UserWarning, match="None of 1 trainings kept loss within -100 of the"):
        result = sws.find_smallest(
            model, *data, epochs=1, max_drop=-100, metric="loss", max_trainings=1, verbose=0
        )
    assert not result.met
    assert result.chosen is result.trials[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1; received 0"),
        ({"max_trainings": 1.5}, "max_trainings must be an integer"),
        ({"max_drop": float("nan")}, "max_drop must be a finite number"),
        ({"metric": "accuracy"}, "metric='accuracy' is none of the compiled ones: loss, mae"),
        ({"mode": "best"}, "mode must be"),
        ({"target_ratio": 20}, "chooses the sizes itself; received target_ratio"),
        ({"complexity_weight": 1.0}, "received complexity_weight"),
        ({"train_data": iter([])}, "train_data is read for each training"),
        ({"validation_data": None}, "validation_data is read for each training"),
    ],
)
def test_bad_arguments_are_refused_before_any_training(change, message, data):
    arguments = {"train_data": data[0], "validation_data": data[1], "epochs": 1, **change}
    with pytest.raises(ValueError, match=message):
        sws.find_smallest(network(keras), **arguments)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_models_that_cannot_be_searched(data):
    with pytest.raises(TypeError, match="expects a built Keras model"):
        sws.find_smallest("model", *data, epochs=1)
    with pytest.raises(TypeError, match=r"must be a function that makes.*; received list"):
        sws.find_smallest(network(keras), *data, epochs=1, callbacks=[])
    with pytest.raises(TypeError, match="no argument exlude"):
        sws.find_smallest(network(keras), *data, epochs=1, exlude="head")
    model = network(keras, loss=lambda y, outputs: keras.ops.mean(y - outputs))
    with pytest.raises(ValueError, match="Register what is your own"):
        sws.find_smallest(model, *data, epochs=1)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="is not compiled"):
        sws.find_smallest(model, *data, epochs=1)
    with pytest.raises(ValueError, match="wraps the pretrained model itself"):
        sws.find_smallest(sws.apply_soft_weight_sharing(model), *data, epochs=1)


class StopsAtOnce(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


@MAY_MISS
def test_a_training_that_was_stopped_is_judged_by_its_file(data):
    result = sws.find_smallest(
        network(keras),
        *data,
        epochs=10,
        max_drop=100.0,
        max_trainings=1,
        callbacks=lambda: [StopsAtOnce()],
        verbose=0,
    )
    outputs = result.model.predict(data[1][0], verbose=0)
    error = np.mean(np.abs(outputs - data[1][1]))
    assert result.chosen.value == pytest.approx(error, rel=1e-4)


@MAY_MISS
def test_a_search_in_which_all_trainings_diverge_says_so(data):
    model = network(keras)
    model.compile(keras.optimizers.SGD(1e12), "mse", metrics=["mae"])
    with pytest.warns(UserWarning, match="None of 1 trainings kept mae"):
        result = sws.find_smallest(
            model, *data, epochs=3, max_drop=-1.0, max_trainings=1, verbose=0
        )
    assert not result.met


@MAY_MISS
def test_a_folder_holds_one_search_only(data, tmp_path):
    options = {"epochs": 1, "max_drop": 50.0, "max_trainings": 1, "folder": tmp_path}
    model = network(keras)
    settings = {"include": functools.partial(is_named, "first")}
    first = sws.find_smallest(model, *data, verbose=0, **options, **settings)
    settings = {"include": functools.partial(is_named, "first")}
    again = sws.find_smallest(model, *data, verbose=0, **options, **settings)
    assert again.trials == first.trials
    model.compile(keras.optimizers.Adam(1e-4), "mse", metrics=["mae"])
    with pytest.raises(ValueError, match="another search, with other optimizer, loss or metr"):
        sws.find_smallest(model, *data, verbose=0, **options, **settings)
    other = data[1][0], 2 * data[1][1]
    with pytest.raises(ValueError, match="value of the metric"):
        sws.find_smallest(network(keras), data[0], other, verbose=0, **options, **settings)


def is_named(name, variable):
    return name in variable.path


def test_the_loss_of_one_output_is_not_the_metric():
    losses = {"loss": 1.0, "a_loss": 0.3, "b_loss": 0.7}
    assert condition_on(losses, None, "auto", 0.01).metric == "loss"
    assert condition_on({**losses, "a_mae": 0.1}, None, "auto", 0.01).metric == "a_mae"


def test_the_front_and_the_points():
    pairs = [(16, 0.0), (64, 0.03), (32, 0.04), (128, float("nan"))]
    trials = tuple(trial(i + 1, *pair) for i, pair in enumerate(pairs))
    result = sws.SearchResult(None, True, trials[0], trials, "accuracy", 0.9, 0.01)
    assert [t.number for t in result.front] == [2, 1]
    ax = sws.visualization.plot_tradeoff(result.points)
    assert ax.get_xscale() == "log"


# The front of one training.


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_front_keeps_what_no_other_epoch_beats(library, data, tmp_path):
    model = network(library)
    shared = sws.apply_soft_weight_sharing(model)
    shared.compile(library.optimizers.Adam(1e-2), "mse")
    front = sws.ParetoFront(tmp_path / "front")
    callbacks = [sws.AnnealAndMerge(), front]
    history = shared.fit(
        *data[0], validation_data=data[1], epochs=10, verbose=0, callbacks=callbacks
    )
    losses = history.history["val_loss"]
    # Only epochs after the snap is complete, whose networks are what stripping gives.
    assert front.records
    snaps = history.history["snap"]
    assert all(snaps[record.epoch - 1] == 1.0 for record in front.records)
    files = {path.name for path in (tmp_path / "front").glob("*.sws")}
    assert files == {record.file for record in front.records}
    sizes = [record.size for record in front.records]
    values = [record.value for record in front.records]
    assert sizes == sorted(sizes)
    assert values == sorted(values, reverse=True)
    for record in front.records:
        assert record.value == pytest.approx(losses[record.epoch - 1], rel=1e-6)
        small = sws.load_compressed(tmp_path / "front" / record.file)
        outputs = small.predict(data[1][0], verbose=0)
        assert np.mean((outputs - data[1][1]) ** 2) == pytest.approx(record.value, rel=1e-3)
    stored = json.loads((tmp_path / "front" / "front.json").read_text())
    assert [record["file"] for record in stored] == [record.file for record in front.records]


def test_the_front_drops_what_is_beaten(tmp_path):
    front = sws.ParetoFront(tmp_path, "val_accuracy")

    def offer(epoch, size, value):
        record = sws.FrontRecord(epoch, size, value, f"epoch-{epoch:04d}.sws")
        (tmp_path / record.file).touch()
        front._take_in(record)
        kept = sorted(int(path.stem[-4:]) for path in tmp_path.glob("*.sws"))
        assert kept == sorted(record.epoch for record in front.records)
        return kept

    assert offer(1, 100, 0.90) == [1]
    assert offer(2, 90, 0.89) == [1, 2]
    assert offer(3, 100, 0.90) == [1, 2]  # No better than the first.
    assert offer(4, 95, 0.88) == [1, 2]
    assert offer(5, 90, 0.91) == [5]
    assert offer(6, 80, 0.5) == [5, 6]


def test_a_front_leaves_out_epochs_that_say_nothing(data, tmp_path):
    shared = sws.apply_soft_weight_sharing(network(keras))
    shared.compile(keras.optimizers.Adam(1e-2), "mse")
    front = sws.ParetoFront(tmp_path)
    shared.fit(
        *data[0],
        validation_data=data[1],
        validation_freq=2,
        epochs=10,
        verbose=0,
        callbacks=[sws.AnnealAndMerge(), front],
    )
    assert {record.epoch for record in front.records} <= {2, 4, 6, 8, 10}
    assert front.records
    kept = list(front.records)
    front.on_epoch_end(10, {"val_loss": float("nan")})
    assert front.records == kept


@pytest.mark.parametrize("monitor", ["val_losses", "lossy"])
def test_a_front_is_told_of_a_misspelt_figure_after_one_epoch(monitor, data, tmp_path):
    shared = sws.apply_soft_weight_sharing(network(keras))
    shared.compile("adam", "mse")
    epochs = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: seen.append(epoch))
    front, seen = sws.ParetoFront(tmp_path, monitor), []
    callbacks = [epochs, sws.AnnealAndMerge(), front]
    with pytest.raises(ValueError, match=f"monitors '{monitor}'.*they hold .*'val_loss'.*Pass"):
        shared.fit(*data[0], validation_data=data[1], epochs=9, verbose=0, callbacks=callbacks)
    assert seen == [0]


def test_trainings_may_share_a_front(data, tmp_path):
    folder = tmp_path / "front"

    def train(rate):
        shared = sws.apply_soft_weight_sharing(network(keras))
        shared.compile(keras.optimizers.Adam(rate), "mse")
        front = sws.ParetoFront(folder)
        callbacks = [sws.AnnealAndMerge(), front]
        shared.fit(*data[0], validation_data=data[1], epochs=4, verbose=0, callbacks=callbacks)
        return front.records

    first = train(1e-2)
    contents = {record.file: (folder / record.file).read_bytes() for record in first}
    # A network that learns nothing may be smaller, and its epochs have the same numbers.
    second = train(1e-7)
    assert set(first) & set(second)
    assert {path.name for path in folder.glob("*.sws")} == {record.file for record in second}
    for record in set(first) & set(second):
        assert (folder / record.file).read_bytes() == contents[record.file]


def test_a_training_of_which_nothing_was_kept_is_told(data, tmp_path):
    shared = sws.apply_soft_weight_sharing(network(keras))
    shared.compile("sgd", "mse")
    unbeaten = [{"epoch": 3, "size": 1, "value": 0.0, "file": "epoch-0003.sws"}]
    (tmp_path / "front.json").write_text(json.dumps(unbeaten))
    (tmp_path / "epoch-0003.sws").write_bytes(b"-")
    callbacks = [sws.AnnealAndMerge(), sws.ParetoFront(tmp_path)]
    with pytest.warns(UserWarning, match="kept nothing of this training: what .* held before"):
        shared.fit(*data[0], validation_data=data[1], epochs=4, verbose=0, callbacks=callbacks)
    assert [path.name for path in tmp_path.glob("*.sws")] == ["epoch-0003.sws"]


def test_a_front_of_three_epochs_keeps_some(data, tmp_path):
    shared = sws.apply_soft_weight_sharing(network(keras))
    shared.compile(keras.optimizers.Adam(1e-2), "mse")
    front = sws.ParetoFront(tmp_path)
    callbacks = [sws.AnnealAndMerge(), front]
    shared.fit(*data[0], validation_data=data[1], epochs=3, verbose=0, callbacks=callbacks)
    assert front.records


class Diverge(keras.callbacks.Callback):
    """Has the network's outputs be NaN from the fifth epoch on."""

    def on_epoch_begin(self, epoch, logs=None):
        kernel = self.model.inner.layers[0].kernel
        if epoch == 4:
            kernel.assign(np.full(kernel.shape, np.nan, "float32"))


class Dev(keras.callbacks.Callback):
    """Adds a figure that is finite whatever the network does, in every second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 2 == 0:
            logs["dev_loss"] = 1.0 / (epoch + 1)


# What is of the lost epoch does not belong to the state that came back after it.
@pytest.mark.filterwarnings("ignore:The loss became NaN")
@pytest.mark.parametrize("monitor", ["dev_loss", "error_loss"])
def test_a_front_leaves_out_the_epoch_in_which_a_training_was_lost(monitor, data, tmp_path):
    shared = sws.apply_soft_weight_sharing(network(keras))
    shared.compile(keras.optimizers.Adam(1e-2), "mse")
    front = sws.ParetoFront(tmp_path, monitor)
    callbacks = [Dev(), sws.AnnealAndMerge(), Diverge(), front]
    history = shared.fit(*data[0], epochs=10, verbose=0, callbacks=callbacks)
    assert len(history.epoch) == 5
    assert front.records
    assert max(record.epoch for record in front.records) < 5


def test_a_front_needs_what_it_monitors(data, tmp_path):
    with pytest.raises(ValueError, match="Pass mode="):
        sws.ParetoFront(tmp_path, "score")
    shared = sws.apply_soft_weight_sharing(network(keras))
    shared.compile("adam", "mse")
    callbacks = [sws.AnnealAndMerge(), sws.ParetoFront(tmp_path)]
    with pytest.warns(UserWarning, match="kept nothing in .*'val_loss' in .*validation_data="):
        shared.fit(*data[0], epochs=4, verbose=0, callbacks=callbacks)
    model = network(keras)
    with pytest.raises(ValueError, match="ParetoFront works on a model wrapped"):
        model.fit(*data[0], verbose=0, callbacks=[sws.ParetoFront(tmp_path)])
