"""Tests the data that the artists of each picture show, not only that it is drawn."""

import re
import sys
import time

import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from families import FAMILIES, RANDOM_NETWORKS, sequential
from matplotlib.collections import PolyCollection
from PIL import Image

import tfmot_sws as sws
from tfmot_sws import visualization
from tfmot_sws.training import schedules
from tfmot_sws.visualization.counts import Movement
from tfmot_sws.visualization.style import OTHERS, ZERO

pytestmark = RANDOM_NETWORKS
MIXTURE = sws.GaussianMixture([0.0, 0.5, -0.4], [0.05, 0.02, 0.1], [0.9, 0.06, 0.04])


@pytest.fixture(autouse=True)
def agg():
    with matplotlib.rc_context({"backend": "Agg"}):
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def trained():
    """Returns the weights before, the wrapped model after, and the history."""
    keras.utils.set_random_seed(3)
    shared = sws.apply_soft_weight_sharing(
        sequential(), num_components=4, complexity_weight=0.01, scope="model"
    )
    before = visualization.read_weights(shared)
    shared.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    x = np.random.default_rng(0).standard_normal((64, 10)).astype("float32")
    callbacks = [sws.AnnealAndMerge(snap=schedules.constant(1.0), merge_start=1.0)]
    y = x[:, :3]
    history = shared.fit(x, y, epochs=3, validation_data=(x, y), verbose=0, callbacks=callbacks)
    return before, shared, history


def test_read_weights_are_copies_in_the_order_of_the_shared_variables(trained):
    _, shared, _ = trained
    raw = visualization.read_weights(shared, snapped=False)
    for values, variable in zip(raw.values(), shared.groups[0].variables, strict=True):
        np.testing.assert_array_equal(values, variable.numpy())
    values[:] = 99
    assert variable.numpy().max() < 99


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_snapped_weights_are_those_of_the_stripped_model(family):
    shared = sws.apply_soft_weight_sharing(family.build(), num_components=4)
    shared.snap.assign(1.0)
    ax = visualization.plot_weight_movement(shared, sws.strip_soft_weight_sharing(shared))
    counts = ax.get_images()[0].get_array()
    assert counts.sum() == np.trace(counts) > 0, "nothing lies off the diagonal"


def test_histogram_counts_every_weight_on_both_scales(rng):
    models = {"before": rng.standard_normal(1000), "after": np.zeros(1000)}
    figure = visualization.plot_weight_histogram(models, bins=11)
    linear, log = figure.axes
    assert (linear.get_yscale(), log.get_yscale()) == ("linear", "log")
    for ax in figure.axes:
        totals = [
            patch.get_data().values for patch in ax.patches if patch.get_label() in models
        ]
        assert [counts.sum() for counts in totals] == [1000, 1000]
        assert totals[1][5] == 1000, "all zeros lie in the middle bin"
    assert [text.get_text() for text in log.get_legend().get_texts()] == ["before", "after"]


def test_histogram_has_a_row_a_layer(trained):
    before, shared, _ = trained
    models = {"before": before, "after": shared}
    figure = visualization.plot_weight_histogram(models, per_layer=True)
    assert [ax.get_title(loc="left") for ax in figure.axes[::2]] == list(before)
    kernel = next(iter(before.values()))
    assert figure.axes[0].patches[1].get_data().values.sum() == kernel.size


def test_histogram_of_one_model_on_a_given_subfigure():
    left, _ = plt.figure().subfigures(1, 2)
    assert visualization.plot_weight_histogram(sequential(), figure=left) is left
    assert left.axes[1].get_legend() is None


def test_movement_counts_pairs_where_they_belong():
    before, after = np.float32([0.1, 0.1, -0.2, 9.0]), np.float32([0.0, 0.0, -0.2, 0.25])
    counts = Movement.count(before, after, limits=(0.5, 0.3), bins=5).counts
    expected = np.zeros((5, 5))
    expected[3, 2], expected[1, 0], expected[4, 4] = 2, 1, 1
    np.testing.assert_array_equal(counts, expected)


def test_movement_matches_numpy(rng):
    before, after = rng.uniform(-1, 1, (2, 5000)).astype("float32")
    movement = Movement.count(before, after, limits=(1.0, 1.0), bins=20)
    edges = (movement.edges_before, movement.edges_after)
    expected, _, _ = np.histogram2d(before, after, edges)
    assert np.abs(movement.counts - expected).sum() <= 4, "but for rounding at the edges"


def test_movement_shows_all_weights_as_a_density(trained):
    before, shared, _ = trained
    ax = visualization.plot_weight_movement(before, shared)
    (image,) = ax.get_images()
    total = sum(values.size for values in before.values())
    assert image.get_array().sum() == total
    above, right = ax.child_axes
    assert above.patches[0].get_data().values.sum() == total
    assert right.patches[0].get_data().values.sum() == total
    assert (above.get_yscale(), right.get_xscale()) == ("linear", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("pretrained weight", "retrained weight")


def bands(ax, colour):
    """Returns lower and upper ends of the bands of a colour, shape (K, 2)."""
    collections = [c for c in ax.collections if type(c) is PolyCollection]
    chosen = [
        c for c in collections if matplotlib.colors.to_hex(c.get_facecolor()) == colour.lower()
    ]
    paths = [path.vertices[:, 1] for c in chosen for path in c.get_paths()]
    return np.array([[y.min(), y.max()] for y in paths])


def test_bands_are_two_sigma_wide_with_the_zero_component_apart(rng):
    values = rng.uniform(-1, 1, 100)
    ax = visualization.plot_weight_movement(values, values, MIXTURE)
    for panel in (ax, ax.child_axes[1]):
        np.testing.assert_allclose(bands(panel, ZERO), [[-0.1, 0.1]])
        np.testing.assert_allclose(bands(panel, OTHERS), [[0.46, 0.54], [-0.6, -0.2]])


def test_mixture_of_a_wrapped_model_is_drawn(trained):
    before, shared, _ = trained
    ax = visualization.plot_weight_movement(before, shared)
    means = shared.groups[0].prior.mixture().means
    np.testing.assert_allclose(bands(ax, OTHERS).mean(axis=1), means[1:], atol=1e-6)


def test_movement_draws_on_given_axes_and_without_a_mixture():
    figure, axes = plt.subplots(1, 2)
    ax = visualization.plot_weight_movement([0.1, 0.2], [0.0, 0.2], ax=axes[1])
    assert ax is axes[1]
    assert not bands(ax, OTHERS).size
    assert plt.get_fignums() == [figure.number]


def test_million_weights_are_drawn_fast(rng):
    before = rng.standard_normal(1_000_000).astype("float32")
    start = time.perf_counter()
    figure = visualization.plot_weight_movement(before, before * 0.9, MIXTURE).figure
    figure.canvas.draw()
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("after", "message"),
    [({"b": [1.0]}, "no variable in common.*'a'.*'b'"), ({"a": [1.0]}, "'a' has 2 entries")],
)
def test_movement_of_other_variables_is_turned_down(after, message):
    with pytest.raises(ValueError, match=message):
        visualization.plot_weight_movement({"a": [1.0, 2.0]}, after)


def test_codebook_shows_values_usage_and_zeros(trained):
    _, shared, _ = trained
    small = sws.strip_soft_weight_sharing(shared)
    every = sws.get_codebooks(small)
    codebooks = {path: c for path, c in every.items() if c.codebook.size > 1}
    ax = visualization.plot_codebook(small)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(codebooks)
    zeros, others = ax.collections[:2]
    shown = np.concatenate([zeros.get_offsets()[:, 0], others.get_offsets()[:, 0]])
    expected = np.concatenate([tensor.codebook for tensor in codebooks.values()])
    np.testing.assert_allclose(np.sort(shown), np.sort(expected))
    usage = np.concatenate([zeros.get_array(), others.get_array()])
    assert usage.sum() == pytest.approx(len(codebooks))
    bars = [bar.get_width() for bar in ax.child_axes[0].patches]
    shares = [100 * t.num_zeros / t.indices.size for t in codebooks.values()]
    assert bars == pytest.approx(shares)


def test_codebook_of_a_dense_model_is_turned_down():
    dense = keras.layers.Dense(9, use_bias=False)
    with pytest.raises(ValueError, match="no clustered tensor"):
        visualization.plot_codebook(keras.Sequential([keras.Input((9,)), dense]))


def test_layers_show_what_the_sharing_report_tells(trained):
    _, shared, _ = trained
    tensors = sws.sharing_report(shared).tensors
    bits, zeros, widths, sensitivities = visualization.plot_layers(shared).axes
    assert [label.get_text() for label in bits.get_yticklabels()] == [t.path for t in tensors]
    for ax, expected in (
        (bits, [t.bits for t in tensors]),
        (zeros, [100 * t.zeros / t.size for t in tensors]),
        (widths, [t.width / t.scale for t in tensors]),
    ):
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(expected)
    (discs,) = sensitivities.collections
    measured = [t.sensitivity for t in tensors if t.sensitivity > 0]
    np.testing.assert_allclose(discs.get_offsets()[:, 0], measured)
    assert measured


def test_layers_of_a_plain_model_are_turned_down():
    with pytest.raises(TypeError, match="wrapped by apply_soft_weight_sharing"):
        visualization.plot_layers(sequential())


def test_history_shows_each_log_once(trained):
    history = trained[2]
    figure = visualization.plot_history(history)
    curves = {ax.get_title(): ax.get_lines() for ax in figure.axes}
    assert list(curves) == [
        "error loss",
        "complexity loss",
        "living components",
        "zeros (%)",
        "entropy (bits per weight)",
        "snap (0 to 1)",
        "mae",
    ]
    training, validation = curves["error loss"]
    np.testing.assert_allclose(training.get_ydata(), history.history["error_loss"])
    np.testing.assert_allclose(validation.get_ydata(), history.history["val_loss"])
    zeros = 100 * np.array(history.history["zeros"])
    np.testing.assert_allclose(curves["zeros (%)"][0].get_ydata(), zeros)
    assert curves["mae"][1].get_xdata().tolist() == [1, 2, 3]


def test_history_shows_snap_where_it_is_logged():
    figure = visualization.plot_history({"snap": [0.0, 1.0], "loss": [1.0, 2.0]})
    assert [ax.get_title() for ax in figure.axes] == ["snap (0 to 1)"]


def test_history_without_logs_is_turned_down():
    with pytest.raises(ValueError, match=r"holds \['loss'\].*AnnealAndMerge"):
        visualization.plot_history({"loss": [1.0]})


def test_tradeoff_joins_the_front_and_shows_the_rest():
    points = {"one": [(10, 0.3), (20, 0.1), (30, 0.2)], "two": [(15, 0.2)]}
    ax = visualization.plot_tradeoff(points, baseline=0.05)
    fronts = [line.get_xydata().tolist() for line in ax.get_lines()]
    assert fronts[:2] == [[[10, 30], [20, 10]], [[15, 20]]]
    assert [len(c.get_offsets()) for c in ax.collections] == [3, 1]
    assert fronts[2][0][1] == 5
    assert ax.get_xscale() == "log"


@pytest.mark.parametrize("points", [{}, {"a": []}, {"a": [(0, 0.1)]}, {"a": [(1, 2, 3)]}])
def test_tradeoff_of_bad_points_is_turned_down(points):
    with pytest.raises(ValueError, match="pairs"):
        visualization.plot_tradeoff(points)


def record(path, epochs, **arguments):
    keras.utils.set_random_seed(3)
    shared = sws.apply_soft_weight_sharing(sequential(), num_components=4, scope="model")
    shared.compile("adam", "mse")
    recorder = sws.WeightMovementRecorder(path, **arguments)
    x = np.zeros((8, 10), "float32")
    callbacks = [sws.AnnealAndMerge(), recorder]
    shared.fit(x, x[:, :3], epochs=epochs, verbose=0, callbacks=callbacks)
    return recorder


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"every": 2}, [0, 2, 4, 5]),
        ({"max_frames": 3}, [0, 2, 5]),
    ],
)
def test_recorder_writes_its_frames_and_nothing_else(tmp_path, arguments, epochs):
    recorder = record(tmp_path / "new" / "movement.gif", 5, **arguments)
    assert [epoch for epoch, _, _ in recorder._frames] == epochs
    with Image.open(recorder.path) as file:
        assert file.n_frames == len(epochs)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["movement.gif"]
    assert plt.get_fignums() == []


def test_one_layer_is_read_and_recorded_by_its_path(tmp_path, trained):
    _, shared = trained[:2]
    every = visualization.read_weights(shared)
    first = next(iter(every))
    (path,) = visualization.read_weights(shared, include=re.escape(first))
    assert path == first
    with pytest.raises(ValueError, match="none of the paths"):
        visualization.read_weights(shared, include="nowhere")
    recorder = record(tmp_path / "movement.gif", 3, include="kernel$")
    kernels = visualization.read_weights(sequential(), include="kernel$").values()
    assert recorder._frames[0][1].counts.sum() == sum(kernel.size for kernel in kernels)


def test_mixture_of_one_layer_is_shown(tmp_path):
    keras.utils.set_random_seed(3)
    shared = sws.apply_soft_weight_sharing(sequential(), num_components=4, scope="layer")
    shared.compile("adam", "mse")
    path = shared.weight_choices[shared.groups[0].positions[0]].path
    recorders = [
        sws.WeightMovementRecorder(tmp_path / f"{i}.gif", include=include)
        for i, include in enumerate((re.escape(path), None))
    ]
    x = np.zeros((8, 10), "float32")
    callbacks = [sws.AnnealAndMerge(), *recorders]
    shared.fit(x, x[:, :3], epochs=3, verbose=0, callbacks=callbacks)
    of_one, of_all = (recorder._frames[-1][2] for recorder in recorders)
    np.testing.assert_array_equal(of_one.means, shared.groups[0].prior.mixture().means)
    assert of_all is None


def test_tensors_of_one_value_are_left_out_of_the_codebooks():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    ax = visualization.plot_codebook(model_of_few_values(model))
    assert [t.get_text().rpartition("/")[2] for t in ax.get_yticklabels()] == ["kernel"]


def model_of_few_values(model):
    model.set_weights([np.sign(w) for w in model.get_weights()])
    return model


def test_recorder_starts_where_nothing_has_moved(tmp_path):
    recorder = record(tmp_path / "movement.gif", 2, every=2, bins=11)
    (_, first, mixture), (_, last, _) = recorder._frames
    assert first.counts.sum() == last.counts.sum() > 0
    rows, columns = np.nonzero(first.counts)
    moved = first.edges_before[rows] - first.edges_after[columns]
    width = first.edges_after[1] - first.edges_after[0]
    assert np.all(np.abs(moved) <= 2 * width)
    assert mixture.num_components == 4


def test_recorder_writes_on_demand(tmp_path):
    recorder = sws.WeightMovementRecorder(tmp_path / "movement.gif")
    with pytest.raises(RuntimeError, match="no frame yet"):
        recorder.write()
    assert not list(tmp_path.iterdir())


def test_recorder_asks_for_ffmpeg_and_known_endings(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        sws.WeightMovementRecorder(tmp_path / "movement.avi")
    monkeypatch.setattr(matplotlib.animation.FFMpegWriter, "isAvailable", lambda: False)
    with pytest.raises(RuntimeError, match="needs ffmpeg"):
        sws.WeightMovementRecorder(tmp_path / "movement.mp4")


@pytest.mark.parametrize("arguments", [{"every": 0}, {"max_frames": 1}, {"bins": 0.5}])
def test_recorder_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must"):
        sws.WeightMovementRecorder("movement.gif", **arguments)


def test_recorder_turns_a_plain_model_down():
    model = sequential()
    model.compile("sgd", "mse")
    x = np.zeros((2, 10), "float32")
    recorder = sws.WeightMovementRecorder("movement.gif")
    with pytest.raises(ValueError, match="works on a model wrapped by"):
        model.fit(x, x[:, :3], verbose=0, callbacks=[recorder])


def test_missing_matplotlib_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (
        lambda: visualization.plot_weight_movement([0.1], [0.2]),
        lambda: sws.WeightMovementRecorder("movement.gif"),
    ):
        with pytest.raises(ImportError, match=r"tfmot-sws\[visualization\]"):
            draw()


def test_pictures_leave_matplotlib_settings_alone(trained):
    before, shared, history = trained
    settings = dict(matplotlib.rcParams)
    visualization.plot_weight_movement(before, shared)
    visualization.plot_history(history)
    assert dict(matplotlib.rcParams) == settings
