"""Wrong arguments of public functions end in one sentence of this package's own."""

import traceback

import keras
import numpy as np
import pytest
from keras import layers

import tfmot_sws as sws
from tfmot_sws import visualization
from tfmot_sws.arguments import check_flags, check_integer, check_numbers, floats

# None of these is a number, a model, a path, a mixture, or an array of examples.
WRONG = {
    "text": "abc",
    "object": object(),
    "function": len,
    "class": keras.layers.Dense,
    "array of NaN": np.full((2, 2), np.nan),
    "empty array": np.zeros(0),
    "huge": 10**30,
    "NaN": float("nan"),
    "empty mapping": {},
}


def network():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, "softmax")])


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Right arguments of each function, by its name."""
    folder = tmp_path_factory.mktemp("arguments")
    model = network()
    model.layers[0].kernel.assign(np.eye(4, 3))
    wrapped = sws.apply_soft_weight_sharing(network(), num_components=3, train_size=4)
    wrapped.compile("sgd", "mse", run_eagerly=True)
    sws.save_compressed(model, folder / "model.sws")
    x, y = np.ones((4, 4), "float32"), np.eye(4, 3, dtype="float32")
    mixture = {"means": [0, 1], "stddevs": [1, 1], "mixing_proportions": [0.5, 0.5]}
    # Never run: every call ends before.
    tflite = b"....TFL3"
    return {
        sws.AnnealAndMerge: {},
        sws.BetaHyperprior: {"alpha": 1, "beta": 1},
        sws.GammaHyperprior: {"strength": 1, "stddev": 1},
        sws.LearningRates: {},
        sws.PriorOptions: {},
        sws.GaussianMixture: mixture,
        sws.GaussianMixturePrior: {},
        sws.apply_soft_weight_sharing: {"model": model},
        sws.coded_sizes: {"model": model},
        sws.compression_report: {"model": model},
        sws.convert_to_tflite: {"model": model},
        sws.export: {"model": model, "path": folder / "model.tflite"},
        sws.fold_batch_norm: {"model": model},
        sws.get_codebooks: {"model": model},
        sws.load_compressed: {"path": folder / "model.sws"},
        sws.measure_sensitivity: {"model": wrapped, "x": x, "y": y},
        sws.place_on_int8_grid: {"model": model},
        sws.predict_tflite: {"tflite": tflite, "inputs": x},
        sws.save_compressed: {"model": model, "path": folder / "model.sws"},
        sws.sharing_report: {"model": wrapped},
        sws.soft_targets: {"model": model, "x": x, "y": y},
        sws.strip_soft_weight_sharing: {"model": wrapped},
        sws.verify_tflite: {"tflite": tflite, "model": model},
        sws.WeightMovementRecorder: {"path": "a.gif"},
        sws.SoftWeightSharingSummaries: {"log_dir": "logs"},
        sws.schedules.geometric: {"initial": 1, "final": 1},
        sws.schedules.linear: {"initial": 1, "final": 1},
        visualization.plot_codebook: {"model": model},
        visualization.plot_layers: {"model": model},
        visualization.plot_history: {"history": {"zeros": [0]}},
        visualization.plot_tradeoff: {"points": {"a": [(1, 1)]}},
        visualization.plot_weight_histogram: {"models": model},
        visualization.plot_weight_movement: {"before": model, "after": model},
        visualization.read_weights: {"model": model},
    }


# The arguments, and which of the wrong values are right for them after all.
NUMBERS = {"NaN", "huge"}
CASES = [
    *((sws.AnnealAndMerge, name, {"function", "class"}) for name in ("snap", "complexity")),
    *((sws.AnnealAndMerge, name, NUMBERS) for name in ("merge_threshold", "rule_end")),
    (sws.AnnealAndMerge, "epochs", {"huge"}),
    *((sws.BetaHyperprior, name, NUMBERS) for name in ("alpha", "beta")),
    *((sws.GammaHyperprior, name, NUMBERS) for name in ("strength", "stddev")),
    (sws.LearningRates, "means", NUMBERS),
    *((sws.PriorOptions, name, set()) for name in ("zero", "learning_rates")),
    (sws.PriorOptions, "renewal_period", {"huge"}),
    *((sws.PriorOptions, name, NUMBERS) for name in ("initial_stddev", "width_gain")),
    *((sws.GaussianMixture, name, set()) for name in ("means", "stddevs")),
    *((sws.GaussianMixturePrior, name, set()) for name in ("num_components", "options")),
    (sws.GaussianMixturePrior, "num_tensors", set()),
    *((sws.apply_soft_weight_sharing, name, set()) for name in ("model", "scope", "options")),
    *(
        (sws.apply_soft_weight_sharing, n, {"huge"})
        for n in ("complexity_weight", "train_size")
    ),
    (sws.apply_soft_weight_sharing, "zero_proportion", set()),
    *((sws.coded_sizes, name, set()) for name in ("model", "weights_only")),
    (sws.compression_report, "model", set()),
    *((sws.convert_to_tflite, n, set()) for n in ("model", "weights", "sample")),
    (sws.convert_to_tflite, "representative_data", set()),
    *((sws.export, name, set()) for name in ("model", "weights", "sample")),
    (sws.export, "path", {"text"}),
    *((f, "model", set()) for f in (sws.fold_batch_norm, sws.get_codebooks)),
    (sws.load_compressed, "path", {"text"}),
    (sws.load_compressed, "custom_objects", {"empty mapping"}),
    (sws.load_compressed, "model", set()),
    (sws.load_compressed, "max_bytes", {"huge"}),
    *((sws.measure_sensitivity, n, set()) for n in ("model", "x", "y", "sample_weight")),
    (sws.place_on_int8_grid, "model", set()),
    (sws.predict_tflite, "tflite", {"text"}),
    (sws.predict_tflite, "inputs", {"array of NaN"}),
    (sws.predict_tflite, "batch_size", {"huge"}),
    (sws.save_compressed, "model", set()),
    (sws.save_compressed, "path", {"text"}),
    (sws.sharing_report, "model", set()),
    *((sws.soft_targets, name, set()) for name in ("model", "x", "y", "weight", "batch_size")),
    (sws.soft_targets, "temperature", {"huge"}),
    (sws.strip_soft_weight_sharing, "model", set()),
    (sws.verify_tflite, "tflite", {"text"}),
    *((sws.verify_tflite, name, set()) for name in ("model", "data")),
    (sws.WeightMovementRecorder, "path", set()),
    (sws.WeightMovementRecorder, "every", {"huge"}),
    (sws.WeightMovementRecorder, "bins", set()),
    (sws.WeightMovementRecorder, "include", {"text"}),
    (sws.WeightMovementRecorder, "frames_per_second", NUMBERS),
    (sws.SoftWeightSharingSummaries, "log_dir", {"text"}),
    *((sws.schedules.geometric, name, NUMBERS) for name in ("initial", "end")),
    *((sws.schedules.linear, name, NUMBERS) for name in ("final", "start")),
    *((visualization.plot_codebook, name, set()) for name in ("model", "ax")),
    (visualization.plot_layers, "model", set()),
    *((visualization.plot_history, name, set()) for name in ("history", "figure")),
    *((visualization.plot_tradeoff, name, set()) for name in ("points", "ax")),
    (visualization.plot_tradeoff, "baseline", NUMBERS),
    (visualization.plot_weight_histogram, "models", {"empty array", "huge"}),
    *((visualization.plot_weight_histogram, n, set()) for n in ("bins", "per_layer", "figure")),
    *(
        (visualization.plot_weight_movement, n, set())
        for n in ("before", "mixture", "bins", "ax")
    ),
    *((visualization.read_weights, name, set()) for name in ("model", "snapped", "include")),
]


@pytest.mark.parametrize(
    ("function", "argument", "right"), CASES, ids=[f"{f.__name__}-{a}" for f, a, _ in CASES]
)
def test_a_wrong_argument_is_an_error_of_this_package(function, argument, right, given):
    for name in WRONG.keys() - right:
        with pytest.raises((TypeError, ValueError, OSError)) as caught:
            function(**{**given[function], argument: WRONG[name]})
        last = traceback.extract_tb(caught.tb)[-1]
        assert "tfmot_sws" in last.filename, (name, str(caught.value))
        assert last.line.startswith("raise"), (name, str(caught.value))


def test_numbers_of_all_kinds_are_numbers():
    check_numbers(a=1, b=1.5, c=np.float32(2), d=np.int8(3), e=np.array(4.0), f=float("inf"))
    check_flags(a=True, b=np.bool_(False))
    check_integer("n", 3, 3, 3)
    for value in (2, 4, True, 3.0):
        with pytest.raises(ValueError, match="n must be an integer from 3 to 3; received"):
            check_integer("n", value, 3, 3)
    assert floats("a", [1, 2]).dtype == np.float64
    with pytest.raises(TypeError, match="a must be an array of numbers; received list"):
        floats("a", [[1], [2, 3]])
