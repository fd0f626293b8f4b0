"""Codebooks on a uniform grid: found, coded in a few bytes, and read back bit for bit."""

import fractions

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmot_sws.coding import grids
from tfmot_sws.coding.arithmetic import BitDecoder, BitEncoder
from tfmot_sws.coding.container import Section
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.grids import code_grids, step_of
from tfmot_sws.coding.numbers import NumberCoder
from tfmot_sws.coding.tensors import TensorReader, encode_tensors

INTEGERS = [k for k in range(-7, 8) if k]
LIST = np.float32([-0.3, 0.1, 0.45, 0.7])

chosen = st.lists(st.sampled_from(INTEGERS), min_size=3, unique=True).map(sorted)
# All that fits into 21 bits: a product with an integer of 3 bits is then exact.
steps = st.builds(
    lambda mantissa, exponent: float(np.ldexp(mantissa, exponent)),
    st.integers(1, (1 << 21) - 1),
    st.integers(-60, 30),
)


def has_exact_grid(values):
    """Whether values are integers of at most 7 times one number, in rational arithmetic."""
    exact = [fractions.Fraction(float(value)) for value in values]
    greatest = max(map(abs, exact))
    return any(
        all((value * most / greatest).denominator == 1 for value in exact)
        for most in range(1, 8)
    )


def read_back(arrays):
    encoded = encode_tensors(arrays)
    reader = TensorReader(encoded.sections(), 10**6)
    return [tensor.array() for tensor in reader.read()], encoded


@given(steps, chosen)
def test_every_grid_is_found(step, integers):
    values = np.float32(step) * np.float32(integers)
    found = step_of(values)
    assert has_exact_grid(values)
    multiples = (np.float32(INTEGERS) * found).tolist()
    assert set(values.tolist()) <= set(multiples)


@given(st.lists(st.integers(-999, 999).filter(bool), min_size=3, max_size=14, unique=True))
def test_nothing_else_is_taken_for_one(numbers):
    values = np.float32(sorted(numbers))
    assert (step_of(values) is not None) == has_exact_grid(values)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.25],
        [0.25, 0.5],
        [*range(1, 16)],
        # The step would be no normal number.
        np.float32([1, 2, 7]) * np.float32(2e-39),
        # Seven times the step would be infinite.
        np.float32([-1, 1, 2]) * np.float32(1.5e38),
    ],
)
def test_what_a_list_serves_better(values):
    assert step_of(np.float32(values)) is None


def test_grids_and_lists_come_back(rng):
    steps = np.ldexp(rng.integers(128, 256, 9), -11)
    books = [np.float32(steps[i]) * np.float32(INTEGERS[i : i + 6]) for i in range(9)]
    books[4] = LIST
    arrays = [rng.choice(np.append(0, book), (30, 20)).astype("float32") for book in books]
    found, encoded = read_back(arrays)
    for array, expected in zip(found, arrays, strict=True):
        assert array.tobytes() == expected.tobytes()
    # The number of values of the list; the others are grids.
    assert encoded.table[-9:] == bytes([0, 0, 0, 0, 4, 0, 0, 0, 0])


@pytest.mark.parametrize("num_tensors", [4, 40])
def test_a_grid_costs_four_bytes(num_tensors, rng):
    """As the training makes them: steps of 8 significant bits, all integers up to some."""
    arrays = []
    for _ in range(num_tensors):
        most = rng.integers(3, 8)
        step = np.ldexp(rng.integers(128, 256), -rng.integers(9, 13))
        integers = rng.integers(-most, most + 1, (50, 40))
        arrays.append((step * integers).astype(np.float32))
    found, encoded = read_back(arrays)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, arrays, strict=True))
    heads = num_tensors
    assert (encoded.codebook_bytes + heads) / num_tensors <= 4.5
    values = sum(np.unique(array).size - 1 for array in arrays)
    assert encoded.codebook_bytes < 0.5 * values


def test_small_tensors_join_the_grid_of_their_mixture(rng):
    step = np.float32(0.1279296875)
    kernel = step * rng.integers(-7, 8, (40, 30)).astype("float32")
    bias = step * rng.integers(-2, 3, 30).astype("float32")
    other = np.float32(0.3) * rng.integers(-5, 6, (40, 30)).astype("float32")
    found, encoded = read_back([kernel, bias, other])
    assert [entry.codebook for entry in encoded.entries] == [0, 0, 1]
    np.testing.assert_array_equal(found[1], bias)


@pytest.mark.parametrize("step", [-0.25, 0.0, 1e38])
def test_steps_that_no_writer_writes_are_refused(step, monkeypatch):
    monkeypatch.setattr(grids, "step_of", lambda _: np.float32(step))
    encoder = BitEncoder()
    monkeypatch.setattr(grids, "_check", lambda _: None)
    with np.errstate(over="ignore"):
        code_grids(encoder, NumberCoder(encoder), [np.float32([1, 2, 3])], 1)
    monkeypatch.undo()
    decoder = BitDecoder(encoder.finish())
    with pytest.raises(CompressedFileError, match="Steps of grids"):
        code_grids(decoder, NumberCoder(decoder), [], 1)


def test_version_2_has_no_grids(rng):
    """A head of 0 stood for a codebook without values there."""
    arrays = [rng.choice(np.append(0, LIST), (30, 20)).astype("float32")]
    sections = encode_tensors(arrays).sections()
    (read,) = TensorReader(sections, 10**6, version=2).read()
    assert read.array().tobytes() == arrays[0].tobytes()
    grid = encode_tensors([rng.integers(-3, 4, (30, 20)).astype("float32")]).sections()
    assert grid[Section.TENSORS][-1] == 0
    # The old reader takes the grid for indices.
    with pytest.raises(CompressedFileError):
        list(TensorReader(grid, 10**6, version=2).read())
