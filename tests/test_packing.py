"""Packing: few flat tensors, and the same ones back."""

import numpy as np
import pytest

from tfmot_sws.backend.packing import Packing

SHAPES = [(), (2, 3), (4, 5), (3,), (30,), (1, 1)]


@pytest.mark.parametrize(
    ("below", "sizes"), [(0, [1, 6, 20, 3, 30, 1]), (20, [11, 20, 30]), (99, [61])]
)
def test_unpack_is_the_inverse_of_pack(below, sizes, rng):
    tensors = [rng.normal(size=shape).astype("float32") for shape in SHAPES]
    packing = Packing(SHAPES, below)
    packed = packing.pack(tensors)
    assert [tuple(flat.shape) for flat in packed] == [(size,) for size in sizes]
    assert packing.sizes == sizes
    for back, tensor in zip(packing.unpack(packed), tensors, strict=True):
        np.testing.assert_array_equal(back, tensor)
        assert tuple(back.shape) == tensor.shape


def test_small_ones_lie_in_their_order():
    tensors = [np.float32([1, 2]), np.zeros(9, "float32"), np.float32([3])]
    first, _ = Packing([(2,), (9,), (1,)], 5).pack(tensors)
    np.testing.assert_array_equal(first, [1, 2, 3])


def test_nothing_packs_to_nothing():
    packing = Packing([], 5)
    assert packing.sizes == packing.pack([]) == packing.unpack([]) == []
