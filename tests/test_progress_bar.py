"""The progress bar shows the main figures; everything else gets all of them."""

import csv

import keras
import numpy as np
import pytest
import tf_keras
from families import RANDOM_NETWORKS

import tfmot_sws as sws
from tfmot_sws.training.progress_bar import ProgressBar, main_figures, with_progress_bar

pytestmark = RANDOM_NETWORKS

ALL = {"error_loss", "complexity_loss", "num_components", "zeros", "bits_per_weight", "snap"}
X = np.random.default_rng(0).standard_normal((64, 6)).astype("float32")


@pytest.fixture(params=[keras, tf_keras])
def library(request):
    return request.param


def fit(library, *callbacks):
    library.utils.set_random_seed(1)
    model = library.Sequential([library.Input((6,)), library.layers.Dense(40)])
    shared = sws.apply_soft_weight_sharing(model, num_components=4)
    shared.compile(library.optimizers.Adam(1e-3), "mse", metrics=["mae"])
    return shared.fit(
        X,
        np.tile(X, 7)[:, :40],
        epochs=2,
        batch_size=8,
        verbose=2,
        callbacks=[
            *callbacks,
            sws.AnnealAndMerge(snap=sws.schedules.linear(0.0, 1.0, end=0.9)),
        ],
        validation_data=(X, np.tile(X, 7)[:, :40]),
    ).history


def test_all_figures_reach_history_and_csv_and_few_the_bar(library, tmp_path, capsys):
    log = library.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(library, log)
    with open(tmp_path / "log.csv") as file:
        row = next(csv.DictReader(file))
    shown = capsys.readouterr().out
    assert set(history) >= ALL
    assert set(row) >= ALL
    assert "zeros: " in shown
    assert "bits_per_weight: " in shown
    for name in ("error_loss", "complexity_loss", "num_components"):
        assert name not in shown
    for name in ("loss: ", "mae: ", "val_mae: "):
        assert name in shown
    lines = [line for line in shown.splitlines() if "zeros: " in line]
    complete = [value >= 1.0 for value in history["snap"]]
    assert ["snap: " not in line for line in lines] == complete
    assert len(set(complete)) == 2


@pytest.mark.parametrize(("verbose", "count"), [(0, 0), (1, 1), (2, 1), ("auto", 1)])
def test_a_bar_is_added_where_keras_would_add_one(verbose, count):
    callbacks = with_progress_bar([sws.AnnealAndMerge()], verbose, ProgressBar)
    assert sum(isinstance(c, keras.callbacks.ProgbarLogger) for c in callbacks) == count


def test_a_bar_of_the_users_own_stays_the_only_one(library):
    bar = library.callbacks.ProgbarLogger(
        **({} if library is keras else {"count_mode": "steps"})
    )
    assert with_progress_bar([bar], 1, ProgressBar) == [bar]


def test_a_list_of_callbacks_stays_as_it_is():
    callbacks = keras.callbacks.CallbackList([])
    assert with_progress_bar(callbacks, 1, object) is callbacks


def test_every_figure_is_shown_or_left_out_on_purpose():
    logs = dict.fromkeys(["loss", *sorted(ALL), "compression_ratio", "target_ratio"], 0.5)
    assert list(main_figures(logs)) == ["loss", "snap", "zeros", "compression_ratio"]
    assert list(main_figures({"loss": 1.0, "snap": 1.0})) == ["loss"]
