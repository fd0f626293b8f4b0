"""Tests that a reader of the event file finds the TensorBoard summaries."""

import sys

import keras
import numpy as np
import pytest
from families import sequential
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

import tfmot_sws as sws


def fit(callbacks, epochs=2, **arguments):
    keras.utils.set_random_seed(3)
    shared = sws.apply_soft_weight_sharing(sequential(), num_components=3, **arguments)
    shared.compile("adam", "mse")
    x = np.ones((8, 10), "float32")
    shared.fit(
        x, x[:, :3], epochs=epochs, verbose=0, callbacks=[sws.AnnealAndMerge(), *callbacks]
    )
    return shared


def read(folder):
    """Returns the steps and values of an event file by tag."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_scalars_are_the_logs_and_the_mixture(tmp_path):
    shared = fit([sws.SoftWeightSharingSummaries(tmp_path)], scope="model")
    found = read(tmp_path)
    for name, values in shared.history.history.items():
        assert [step for step, _ in found[f"epoch/{name}"]] == [0, 1]
        np.testing.assert_allclose(
            [float(v) for _, v in found[f"epoch/{name}"]], values, rtol=1e-6
        )
    prior = shared.groups[0].prior
    mixture = prior.mixture()
    for k, slot in enumerate(prior.alive_slots):
        _, mean = found[f"mixture_mean/{slot:02d}"][-1]
        _, stddev = found[f"mixture_stddev/{slot:02d}"][-1]
        assert (mean, stddev) == pytest.approx((mixture.means[k], mixture.stddevs[k]))
    assert found["schedule/snap"][-1][1] == pytest.approx(float(shared.snap.value))


def test_histograms_count_every_shared_weight(tmp_path):
    shared = fit([sws.SoftWeightSharingSummaries(tmp_path, buckets=7)])
    found = read(tmp_path)
    variables = [variable for group in shared.groups for variable in group.variables]
    assert len(variables) == 4
    for variable in variables:
        _, buckets = found[f"weights/{variable.path}"][-1]
        assert buckets.shape == (7, 3)
        assert buckets[:, 2].sum() == np.prod(variable.shape)


def test_every_and_mixtures_of_layers(tmp_path):
    summaries = sws.SoftWeightSharingSummaries(tmp_path, every=2)
    fit([summaries], epochs=3)
    found = read(tmp_path)
    assert [step for step, _ in found["epoch/zeros"]] == [0, 2]
    assert {"mixture_0_mean/00", "mixture_1_mean/00"} <= set(found)


@pytest.mark.parametrize("arguments", [{"every": 0}, {"buckets": 1.5}])
def test_arguments_out_of_range(tmp_path, arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must"):
        sws.SoftWeightSharingSummaries(tmp_path, **arguments)


def test_plain_model_is_turned_down(tmp_path):
    model = sequential()
    model.compile("sgd", "mse")
    x = np.ones((2, 10), "float32")
    with pytest.raises(ValueError, match="works on a model wrapped by"):
        model.fit(x, x[:, :3], verbose=0, callbacks=[sws.SoftWeightSharingSummaries(tmp_path)])


def test_missing_tensorboard_is_told_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"tfmot-sws\[visualization\]"):
        sws.SoftWeightSharingSummaries(tmp_path)
