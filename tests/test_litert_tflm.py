"""Look-up tables for TensorFlow Lite Micro; needs the extra `tflm`."""

import numpy as np
import pytest
from families import FAMILIES, attention, sequential
from keras import Input, Sequential, layers
from rounding import cluster

import tfmot_sws as sws
from tfmot_sws.litert import tflm
from tfmot_sws.litert.converter import convert, with_batch_of_one

pytest.importorskip("tflite_micro")

pytestmark = [
    pytest.mark.filterwarnings("ignore:BatchNorm layers:UserWarning"),
    # A table of few entries costs more than it saves.
    pytest.mark.filterwarnings("ignore:Compression of tensor:UserWarning"),
]


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"attention"}))
def test_families_run_and_agree(name, rng):
    family = FAMILIES[name]
    model, x = cluster(family.build(), 0.8), family.make_inputs(rng)
    tflite = sws.convert_to_tflite(model, "tflm", sample=x)
    assert tflm.is_tflm(tflite)
    verification = sws.verify_tflite(tflite, model, x)
    assert verification.difference < 1e-4
    assert verification.agreement == 1.0


def test_large_layers_take_their_bits():
    model = cluster(Sequential([Input((256,)), layers.Dense(256), layers.Dense(256)]))
    small = len(sws.convert_to_tflite(model, "tflm"))
    assert 3 / 8 * 2 * 256 * 256 < small < 3 / 8 * 2 * 256 * 256 + 6000


def test_missing_operators_are_named():
    with pytest.raises(sws.ExportError, match=r"(?s)Lite Micro cannot run .*SELECT"):
        sws.convert_to_tflite(cluster(attention()), "tflm")


def test_dense_weights_are_turned_down(rng):
    model = sequential()
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    with pytest.raises(sws.ExportError, match="nothing to put into look-up tables"):
        sws.convert_to_tflite(model, "tflm")


def test_predictions_are_bit_exact(rng):
    model = cluster(sequential(), 0.8)
    x = rng.standard_normal((5, 10)).astype("float32")
    exact = convert(with_batch_of_one(model))
    for a, b in zip(tflm.predict(tflm.compress(exact), x), tflm.predict(exact, x), strict=True):
        np.testing.assert_array_equal(a, b)
