"""Codebook and indices give the tensor back; what counts as clustered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfmot_sws.models.codebook import ClusteredTensor, distinct_values, is_clustered

VALUES = st.floats(width=32, allow_nan=False)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
TENSORS = hnp.arrays(
    np.float32, SHAPES, elements=st.sampled_from([0, -0.0, 0.5, -1, 1e-45, 3e38])
)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_side=5), elements=VALUES))
def test_round_trip(array):
    tensor = ClusteredTensor.from_array(array)
    decoded = tensor.decode()
    assert decoded.dtype == np.float32
    assert tensor.shape == decoded.shape == array.shape
    np.testing.assert_array_equal(decoded, array)
    np.testing.assert_array_equal(decoded.view("u4"), (array + np.float32(0)).view("u4"))


@given(TENSORS)
def test_codebook_is_ascending_and_every_entry_used(array):
    tensor = ClusteredTensor.from_array(array)
    assert np.all(np.diff(tensor.codebook) > 0)
    assert np.all(tensor.counts > 0)
    assert tensor.counts.sum() == array.size
    assert tensor.num_zeros == np.count_nonzero(array == 0)


def test_negative_zero_counts_as_zero():
    tensor = ClusteredTensor.from_array(np.float32([-0.0, 0.0, 1.0, -0.0]))
    assert tensor.codebook.tolist() == [0.0, 1.0]
    assert not np.signbit(tensor.decode()).any()
    assert tensor.num_zeros == 3


@pytest.mark.parametrize("order", [1, -1])
def test_256_values_fit_and_257_do_not(order):
    fits = np.arange(256, dtype=np.float32)[::order].reshape(16, 16)
    np.testing.assert_array_equal(ClusteredTensor.from_array(fits).decode(), fits)
    with pytest.raises(ValueError, match=r"shape \(257,\) holds NaN or more than 256"):
        ClusteredTensor.from_array(np.arange(257)[::order])


def test_too_many_values_late_in_a_large_tensor():
    array = np.zeros(5000, np.float32)
    array[-300:] = np.arange(1, 301)
    assert distinct_values(array) is None
    assert distinct_values(array[:-45]).size == 256


@pytest.mark.parametrize("array", [[np.nan], [0.0, np.nan, 1.0], [0.0] * 5000 + [np.nan]])
def test_nan_is_refused(array):
    with pytest.raises(ValueError, match="NaN"):
        ClusteredTensor.from_array(array)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_empty_tensor(shape):
    tensor = ClusteredTensor.from_array(np.zeros(shape))
    assert tensor.decode().shape == tensor.shape == shape
    assert tensor.codebook.size == tensor.num_zeros == 0
    assert tensor.entropy_bits_per_weight == 0.0


@pytest.mark.parametrize(("values", "bits"), [([7.0] * 5, 0.0), ([0, 1, 2, 3], 2.0)])
def test_entropy(values, bits):
    assert ClusteredTensor.from_array(values).entropy_bits_per_weight == bits


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.float32([0, 1, 0, 1]), True),
        (np.float32([0, 1, 2]), False),
        (np.zeros(0, np.float32), False),
        (np.zeros(8, np.int32), False),
        (np.repeat(np.arange(256, dtype=np.float32), 2), True),
        (np.repeat(np.arange(257, dtype=np.float32), 2), False),
        (np.float32([np.nan] * 8), False),
    ],
)
def test_is_clustered(array, expected):
    assert is_clustered(array) is expected
