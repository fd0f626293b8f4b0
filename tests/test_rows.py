"""Rows: tensors laid out in matrices, and the same ones back."""

import numpy as np
import pytest

from tfmot_sws.backend.rows import LENGTH, lay_out

SHAPES = [(), (2, 300), (4, 5), (3, 1), (30, 40), (128,)]


@pytest.mark.parametrize(
    ("below", "matrices"),
    [
        (0, [(1, 1), (1, 600), (1, 20), (1, 3), (1, 1200), (1, 128)]),
        (1000, [(10, LENGTH), (1, 1200)]),
        (9999, [(20, LENGTH)]),
    ],
)
def test_unpack_is_the_inverse_of_pack(below, matrices, rng):
    tensors = [rng.normal(size=shape).astype("float32") for shape in SHAPES]
    found, layout = {}, lay_out(SHAPES, below)
    for rows, shape in zip(layout, matrices, strict=True):
        packed = np.asarray(rows.pack(tensors))
        assert packed.shape == shape
        found.update(zip(rows.positions, rows.unpack(packed), strict=True))
        assert packed.sum() == pytest.approx(
            sum(tensors[i].sum() for i in rows.positions), abs=1e-3
        )
    for i, tensor in enumerate(tensors):
        np.testing.assert_array_equal(found[i], tensor)
        assert tuple(found[i].shape) == tensor.shape


def test_each_row_has_one_owner():
    (rows,) = lay_out(SHAPES)
    tensors = [np.full(shape, 1.0 + i, "float32") for i, shape in enumerate(SHAPES)]
    packed = np.asarray(rows.pack(tensors))
    for row, owner in zip(packed, rows.owners, strict=True):
        assert set(row) <= {0.0, 1.0 + owner}


def test_matrices_have_few_sizes():
    heights = [len(lay_out([(LENGTH * n,)], 1 << 30)[0].owners) for n in range(1, 1000)]
    assert all(n <= height <= 1.25 * n for n, height in enumerate(heights, 1))
    # Up to 8 each, then four an octave up to 1024.
    assert len(set(heights)) <= 8 + 4 * 7


def test_nothing_is_laid_out_for_nothing():
    assert lay_out([]) == []


def test_empty_tensors_have_no_row():
    tensors = [np.zeros((0, 3), "float32"), np.ones(4, "float32")]
    (rows,) = lay_out([(0, 3), (4,)])
    assert rows.owners.tolist() == [1]
    assert [tuple(back.shape) for back in rows.unpack(rows.pack(tensors))] == [(0, 3), (4,)]
