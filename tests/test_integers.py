"""Integers behind float weights: found again after folding, packed, and read by LiteRT."""

import keras
import numpy as np
import pytest
from rounding import cluster

import tfmot_sws as sws
from tfmot_sws.litert.converter import convert
from tfmot_sws.litert.file import stored_tensors, unpack
from tfmot_sws.litert.integer_weights import Storage, pack, store_as_integers
from tfmot_sws.litert.integers import LIMITS, Integers, find_integers

SHAPES = {"tensor": ((24, 9), None), "rows": ((12, 40), 0), "depthwise": ((1, 3, 3, 16), 3)}


def folded(shape, axis, limit, rng):
    """Integers of few values, and float32 weights as a folded BatchNorm leaves them."""
    values = np.unique(np.append(rng.integers(-limit, limit + 1, 8), limit))
    integers = rng.choice(values, shape)
    integers.flat[:2] = limit, limit - 1
    factors = rng.uniform(0.01, 3, 1 if axis is None else shape[axis])
    factors *= rng.choice([-1, 1], factors.shape)
    lengths = [1] * len(shape)
    lengths[axis or 0] = -1
    kernel = (integers * np.float32(0.0137)).astype(np.float32)
    return integers, kernel * factors.astype(np.float32).reshape(lengths)


@pytest.mark.parametrize("limit", [1, 7, 127])
@pytest.mark.parametrize("name", SHAPES)
def test_integers_are_found_behind_a_folded_batch_norm(name, limit, rng):
    shape, axis = SHAPES[name]
    integers, weights = folded(shape, axis, limit, rng)
    found = find_integers(weights)
    assert found.axis == axis
    assert LIMITS[found.bits] == limit
    np.testing.assert_allclose(found.values, weights, rtol=1e-6)
    np.testing.assert_array_equal(found.values == 0, weights == 0)
    assert np.all(found.steps > 0)
    channels = (
        (found.integers, integers)
        if axis is None
        else (np.moveaxis(found.integers, axis, 0), np.moveaxis(integers, axis, 0))
    )
    for ours, theirs in zip(*channels, strict=True):
        assert np.unique(ours).size == np.unique(theirs).size


def test_integers_without_folding_are_exact(rng):
    integers = rng.integers(-127, 128, (20, 20))
    integers[0, :2] = 127, 126
    weights = (integers * np.float32(3 / 256)).astype(np.float32)
    found = find_integers(weights)
    np.testing.assert_array_equal(found.integers, integers)
    np.testing.assert_array_equal(found.values, weights)


def test_channels_share_integers_where_they_can():
    """Alone, the second row would be 1, 0, -2."""
    weights = np.float32([[127, 3, -100, 0, 50, 50], [50, 0, -100, 0, 50, 50]])
    weights *= np.float32([[0.3], [1.7]])
    assert np.unique(find_integers(weights).integers).tolist() == [-100, 0, 3, 50, 127]


@pytest.mark.parametrize(
    "weights",
    [
        np.random.default_rng(0).standard_normal((30, 30)).astype("float32"),
        np.full((4, 4), np.nan, "float32"),
        np.float32([[1, np.inf]]),
    ],
)
def test_other_weights_have_no_integers(weights):
    assert find_integers(weights) is None


@pytest.mark.parametrize("weights", [np.zeros((3, 4), "float32"), np.zeros((0, 3), "float32")])
def test_zeros_and_nothing_are_integers(weights):
    found = find_integers(weights)
    assert found.bits == 2
    np.testing.assert_array_equal(found.values, weights)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_packing_comes_back(bits, size, rng):
    integers = rng.integers(-LIMITS[bits], LIMITS[bits] + 1, size).astype(np.int8)
    packed = pack(integers, bits)
    assert packed.nbytes == -(-size * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, size), integers)


def test_packing_puts_the_first_integer_lowest():
    assert pack(np.int8([1, -2]), 4).tolist() == [0xE1]
    assert pack(np.int8([1, 0, -1, 1]), 2).tolist() == [0b01110001]
    assert pack(np.int8([1, -1]), 8).tolist() == [1, 255]


@pytest.fixture(scope="module")
def layers_of_all_kinds():
    """A file with a convolution, a depthwise one, a gathered embedding and a dense kernel."""
    keras.utils.set_random_seed(0)
    k = keras.layers
    tokens = keras.Input((30,), dtype="int32")
    x = k.Reshape((6, 5, 16))(k.Embedding(40, 16)(tokens))
    x = k.DepthwiseConv2D(3)(k.Conv2D(32, 3, padding="same", use_bias=False)(x))
    model = keras.Model(tokens, k.Dense(10)(k.Flatten()(x)))
    return convert(cluster(model, 0.3)), np.arange(90, dtype="int32").reshape(3, 30) % 40


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("bits", LIMITS)
def test_litert_computes_with_integers_of_any_width_and_axis(layers_of_all_kinds, bits, axis):
    tflite, tokens = layers_of_all_kinds
    chosen = {}

    def quantize(name, values):
        place = None if axis is None else axis % values.ndim
        rest = tuple(a for a in range(values.ndim) if a != place)
        greatest = np.max(
            np.abs(values), axis=rest if axis is not None else None, keepdims=True
        )
        steps = np.where(greatest > 0, greatest / LIMITS[bits], 1).astype("float32")
        integers = np.rint(values / steps).astype(np.int8)
        chosen[name] = Integers(integers, steps.reshape(-1), place)
        return chosen[name]

    small = store_as_integers(tflite, quantize, lambda _: Storage(bits))
    kernels = [t for t in stored_tensors(small) if len(t.shape) > 1]
    assert {t.dtype for t in kernels} == {f"int{bits}"}
    assert len(kernels) == len(chosen) == 4
    assert {t.stored_bytes for t in kernels} == {
        -(-c.integers.size * bits // 8) for c in chosen.values()
    }
    exact = store_as_integers(tflite, lambda *_: None)
    assert (
        sws.predict_tflite(exact, tokens).tobytes()
        == sws.predict_tflite(tflite, tokens).tobytes()
    )
    outputs = sws.predict_tflite(small, tokens)
    expected = sws.predict_tflite(rounded(tflite, chosen), tokens)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def rounded(tflite, chosen):
    """The float file with the values of the integers in place of the weights."""
    from tfmot_sws.litert.file import constants, parse, unparse

    file = parse(tflite)
    for tensor, _ in list(constants(file)):
        if tensor.name.decode() in chosen:
            values = chosen[tensor.name.decode()].values.astype("float32")
            file.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    return unparse(file)
