"""The benchmark of real networks: its data, its training, its recipes and its tables."""

import dataclasses
import json
import types

import keras
import numpy as np
import pytest

pytest.importorskip("tabulate")
pytest.importorskip("sklearn")
pytest.importorskip("tf_keras")

import tf_keras
from sklearn.metrics import jaccard_score, r2_score

from benchmarks.real_networks import NETWORKS, __main__, network, photos, quantized, report
from benchmarks.real_networks.network import Training

# Those whose data is made up or comes with Python and scikit-learn.
AT_HAND = ("breast-cancer", "diabetes", "text", "transformer", "recurrent", "unet")
# The weights of resnet-8 come from a file, as does its architecture.
BUILT = [name for name in NETWORKS if name != "resnet-8"]


# Networks and data.


def draw_inputs(name, model):
    """Two examples that a network may be given."""
    shape, generator = (2, *model.input_shape[1:]), np.random.default_rng(0)
    if name in ("text", "transformer"):
        return generator.integers(1, 50, shape)
    return generator.random(shape, dtype=np.float32)


@pytest.mark.parametrize("name", BUILT)
def test_twin_in_tf_keras_has_the_same_outputs(name):
    model, twin = (NETWORKS[name].build(library) for library in (keras, tf_keras))
    twin.set_weights(model.get_weights())
    inputs = draw_inputs(name, model)
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(twin.predict(inputs, verbose=0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", AT_HAND)
def test_data_fits_the_network_and_no_example_is_in_two_parts(name):
    parts = NETWORKS[name].data()
    model = NETWORKS[name].build(keras)
    rows = [{x.tobytes() for x in inputs} for inputs, _ in parts]
    for inputs, targets in parts:
        assert len(inputs) == len(targets)
        assert inputs.shape[1:] == model.input_shape[1:]
        if name != "diabetes":
            assert set(np.unique(targets)) <= set(np.unique(parts[0][1]))
    # Different texts may look alike, for all rare words have one number.
    if name not in ("text", "transformer"):
        assert not rows[0] & rows[1]
        assert not (rows[0] | rows[1]) & rows[2]


def test_pictures_are_mirrored_and_shifted_and_nothing_else():
    pictures = np.arange(5 * 32 * 32 * 3).reshape(5, 32, 32, 3).astype(np.int32)
    padded = np.pad(pictures, [(0, 0), (1, 1), (1, 1), (0, 0)])
    possible = {
        (label, changed[i : i + 32, j : j + 32].tobytes())
        for label, picture in enumerate(padded)
        for changed in (picture, picture[:, ::-1])
        for i in range(3)
        for j in range(3)
    }
    batches = photos.mirror_and_shift((pictures, np.arange(5)), 2, seed=0, shift=1)
    epochs = [[(x.numpy(), y.numpy()) for x, y in batches] for _ in range(2)]
    for batch in epochs:
        assert sorted(label for _, labels in batch for label in labels) == list(range(5))
        seen = {(k, x.tobytes()) for xs, ks in batch for x, k in zip(xs, ks, strict=True)}
        assert seen <= possible
    assert epochs[0][0][0].tobytes() != epochs[1][0][0].tobytes()


def load_noise():
    """Pictures of noise in the place of CIFAR-10."""
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    return ((pictures, np.arange(16, dtype=np.uint8) % 10),) * 3


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_network_trains_on_changed_pictures(library):
    training = Training(1, batch_size=8)
    separable = dataclasses.replace(NETWORKS["separable"], load=load_noise)
    model = separable.build(library)
    before = [weight.copy() for weight in model.get_weights()]
    separable.compile(model, training)
    separable.fit(model, training)
    after = model.get_weights()
    assert all(np.any(new != old) for new, old in zip(after, before, strict=True))
    assert 0.0 <= separable.metric(model, "test") <= 1.0


def test_metrics_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    logits, labels = generator.random((4, 6, 6, 3)), generator.integers(0, 3, (4, 6, 6))
    overlap = jaccard_score(labels.ravel(), logits.argmax(-1).ravel(), average="macro")
    assert network.measure_missed_overlap(logits, labels) == pytest.approx(1 - overlap)
    outputs, targets = generator.random((9, 1)), generator.random(9)
    unexplained = 1 - r2_score(targets, outputs)
    assert network.measure_unexplained(outputs, targets) == pytest.approx(unexplained)
    assert network.measure_error(np.eye(3), np.array([0, 1, 1])) == pytest.approx(1 / 3)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_rate_rises_falls_or_stays(library):
    def rates(**options):
        training = Training(4, 0.1, 25, **options)
        optimizer = training.make_optimizer(100, library)
        if not training.falling:
            return [float(optimizer.learning_rate)]
        schedule = training._make_schedule(100, library)
        return [float(schedule(step)) for step in range(17)]

    assert rates(falling=False, optimizer="SGD") == pytest.approx([0.1])
    assert rates()[0] == pytest.approx(0.1)
    assert rates()[-1] == pytest.approx(0.0, abs=1e-6)
    warm = rates(warmup=0.25)
    assert np.argmax(warm) == 4
    assert max(warm) == pytest.approx(0.1)


# Clustering without a prior.


def test_nearest_value_is_nearest():
    generator = np.random.default_rng(0)
    weight, codebook = generator.random((7, 5)), np.sort(generator.random(4))
    best = np.abs(weight[..., None] - codebook).argmin(-1)
    found = keras.ops.convert_to_numpy(quantized.nearest(keras.ops.array(weight), codebook))
    np.testing.assert_allclose(found, codebook[best])


def test_step_with_clustered_weights_passes_the_gradient_straight_through():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, use_bias=False)])
    (before,) = inner.get_weights()
    model = quantized.ClusteredTraining(inner, num_values=3)
    codebook = np.linspace(before.min(), before.max(), 3)
    near = codebook[np.abs(before[..., None] - codebook).argmin(-1)]
    x, y = (
        np.random.default_rng(k).random((6, n), dtype=np.float32) for k, n in ((1, 8), (2, 4))
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(x, y)
    gradient = 2 * x.T @ (x @ near - y) / y.size
    np.testing.assert_allclose(inner.get_weights()[0], before - 0.1 * gradient, atol=1e-6)
    model.fit_codebooks()
    model.settle()
    assert np.unique(inner.get_weights()[0]).size == 3


# Runs.


def run_main(monkeypatch, folder, *words):
    """The record of a run on few examples of two networks."""
    common = ["--nets", "breast-cancer", "diabetes", "--seeds", "0", "--examples", "40"]
    folders = ["--cache", str(folder / "cache"), "--output", str(folder), "--run", "tiny"]
    monkeypatch.setattr("sys.argv", ["real_networks", *common, *folders, *words])
    __main__.main()
    return json.loads((folder / "real_networks" / "tiny.json").read_text())


@pytest.mark.slow
def test_run_keeps_the_other_rows_when_one_fails_and_goes_on_later(monkeypatch, tmp_path):
    def fail(*_):
        raise ValueError("no luck\nat all")

    failing = types.SimpleNamespace(settings=lambda _: {"once": 0}, run=fail)
    monkeypatch.setitem(__main__.RECIPES, "tfmot", failing)
    words = ["--epochs", "2", "--recipes", "tfmot", "nncodec", "dense", "sws"]
    record = run_main(monkeypatch, tmp_path, *words)
    rows = {(r["network"], r["recipe"], r["setting"]): r for r in record["rows"]}
    assert rows["diabetes", "tfmot", "once"]["problem"] == "failed: ValueError: no luck"
    assert rows["diabetes", "nncodec", "all"]["problem"].startswith("not run")
    assert rows["diabetes", "dense", "as pretrained"]["bytes"] == 4 * (11 * 64 + 65 * 64 + 65)
    for name in ("breast-cancer", "diabetes"):
        ours = rows[name, "sws", "default"]
        assert ours["bytes"] < ours["dense bytes"] / 4
        assert ours["seconds"] > 0

    words = ["--epochs", "2", "--recipes", "dense", "qat", "--values", "4", "--resume"]
    later = run_main(monkeypatch, tmp_path, *words)
    assert later["rows"][: len(record["rows"])] == record["rows"]
    assert [row["recipe"] for row in later["rows"][len(record["rows"]) :]] == ["qat", "qat"]
    assert len(later["continued"]) == 1
    with pytest.raises(SystemExit, match="--epochs was 2"):
        run_main(monkeypatch, tmp_path, "--epochs", "3", "--resume")


@pytest.mark.slow
def test_tfmot_prunes_and_clusters_the_twin(monkeypatch, tmp_path):
    words = ["--epochs", "2", "--recipes", "tfmot", "--sparsities", "0.5"]
    rows = run_main(monkeypatch, tmp_path, *words)["rows"]
    assert [row["recipe"] for row in rows] == ["dense", "tfmot"] * 2
    for row in rows[1::2]:
        assert row["bytes"] < row["dense bytes"] / 2
        assert row["share of kernels clustered"] > 0.9


def test_networks_that_take_days_are_not_run():
    slow = types.SimpleNamespace(on_request=True)
    found = __main__.make_row(slow, 0, None, None, types.SimpleNamespace(wrn=False))
    assert found["problem"].startswith("not run: takes days")


def test_nothing_is_run_on_a_network_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)
    missing = dataclasses.replace(NETWORKS["diabetes"], build=photos.resnet_8)
    monkeypatch.setitem(NETWORKS, "diabetes", missing)
    rows = run_main(monkeypatch, tmp_path, "--epochs", "2", "--recipes", "dense")["rows"]
    assert [row["network"] for row in rows] == ["breast-cancer", "breast-cancer", "diabetes"]
    assert "pretrainedResnet.h5 is missing" in rows[-1]["problem"]


# Tables.


def make_row(recipe, setting, error, num_bytes, seed=0):
    return {
        "network": "net",
        "seed": seed,
        "recipe": recipe,
        "setting": setting,
        "validation error": error,
        "test error": error + 0.01,
        "bytes": num_bytes,
        "dense bytes": 1000,
        "seconds": 2.0,
    }


def test_overview_compares_at_equal_error_and_marks_what_is_worse():
    rows = [
        make_row("dense", "trained on", 0.10, 1000),
        make_row("sws", "tau 1", 0.20, 20),
        make_row("sws", "default", 0.11, 100),
        make_row("qat", "4 values", 0.11, 90),
        make_row("qat", "3 values", 0.12, 80),
        make_row("tfmot", "sparsity 0.9", 0.13, 50),
        {"network": "net", "seed": 0, "recipe": "nncodec", "setting": "qp 1", "problem": "no"},
    ]
    info = {"metric": "error"}
    line = report._overview({"rows": rows, "networks": {"net": info}}).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "net",
        "error",
        "11.00%",
        "100, 10.0x, +1.00",
        "(50, 20.0x, +3.00)",
        "90, 11.1x, +1.00",
        "",
        "",
        "clustering without a prior",
    ]


def test_means_are_over_the_seeds():
    rows = [
        make_row("sws", "default", error, 100, seed) for seed, error in enumerate((0.1, 0.2))
    ]
    (mean,) = report.average(rows)
    assert mean["validation error"] == pytest.approx(0.15)
