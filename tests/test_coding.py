"""Tests the coders: pinned bytes, exact round trips, sizes close to the entropy."""

import lzma
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfmot_sws.coding import indices, numbers
from tfmot_sws.coding.arithmetic import BitDecoder, BitEncoder
from tfmot_sws.coding.bulk import BulkIndexCoder
from tfmot_sws.coding.byte_io import ByteReader, varint
from tfmot_sws.coding.codebooks import (
    assign_codebooks,
    decode_codebook,
    to_symbols,
)
from tfmot_sws.coding.container import Section
from tfmot_sws.coding.deflate import inflate, pack, unpack
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.indices import IndexDecoder, IndexEncoder
from tfmot_sws.coding.matrix import matrix_shape, row_stride
from tfmot_sws.coding.range_coder import SymbolDecoder, SymbolEncoder, frequencies
from tfmot_sws.coding.table import (
    ADAPTIVE,
    BULK,
    NUMBERS,
    ONES,
    RAW,
    ZEROS,
    TensorEntry,
    decode_table,
    encode_table,
)
from tfmot_sws.coding.tensors import TensorReader, encode_tensors
from tfmot_sws.prior.rounding import round_significant

VALUES = np.float32([-0.75, -0.25, 0.125, 0.5])


def round_trip(arrays, **options):
    encoded = encode_tensors(arrays, **options)
    size = sum(map(len, encoded.sections().values()))
    reader = TensorReader(encoded.sections(), size)
    return [tensor.array() for tensor in reader.read()], reader.entries, encoded


def assert_same_bits(first, second):
    assert first.dtype == second.dtype
    assert first.shape == second.shape
    assert first.tobytes() == second.tobytes()


def synthetic(shape, zeros, num_values, *, structured, seed=0):
    """Makes a tensor with this fraction of zeros and `num_values` values, some rarer."""
    generator = np.random.default_rng(seed)
    density = np.full(matrix_shape(shape), 1 - zeros)
    if structured:
        rows, columns = density.shape
        density *= generator.gamma(0.5, 2, (rows, 1)) * generator.gamma(0.5, 2, (1, columns))
    codebook = generator.standard_normal(num_values - (zeros > 0)).astype(np.float32)
    share = np.exp(-np.arange(codebook.size) / 8)
    values = generator.choice(codebook, density.shape, p=share / share.sum())
    return np.where(generator.random(density.shape) < density, values, 0).reshape(shape)


def entropy_bytes(array):
    """Computes the order-0 entropy of all entries by its definition."""
    counts = np.unique(array, return_counts=True)[1].tolist()
    return sum(n * math.log2(array.size / n) for n in counts) / 8


# Pinned bytes: the format must not change.


def test_pinned_bits():
    encoder = BitEncoder()
    for bit in (1, 0, 0, 1, 1, 0, 1, 0) * 3:
        encoder.code(bit, 40000)
    assert encoder.finish().hex() == "8ba693"


def test_pinned_symbols():
    encoder = SymbolEncoder()
    encoder.code(np.int32([0, 2, 1, 0, 0]), np.array([5, 2, 1]))
    encoder.code(np.int32([0, 1]), np.array([[3, 1], [1, 9]]))
    assert encoder.finish().hex() == "bd7ea598"


def test_pinned_adaptive_tensor():
    encoder = IndexEncoder()
    symbols = np.array([[0, 0, 2, 0], [0, 0, 0, 0], [1, 0, 3, 0]], np.uint8)
    assert encoder.add(symbols, codebook=0, num_symbols=4) == ADAPTIVE
    assert encoder.finish()[0].hex() == "0ea68d"


def test_pinned_bulk_tensor():
    symbols = (np.arange(60).reshape(12, 5) % 7 == 0) * np.uint8(2)
    encoder = SymbolEncoder()
    BulkIndexCoder(encoder, symbols, 4, 13).code()
    assert encoder.finish().hex() == "13eae0f94bfee725aec80753"


def test_pinned_table_and_codebook():
    entries = [TensorEntry((3, 200), "float32", ADAPTIVE, 1), TensorEntry((), "int64")]
    assert encode_table(entries).hex() == "100e0203c801010700"
    encoder = IndexEncoder()
    encoder.add_codebooks([np.float32([-1, 0.1])])
    assert encoder.finish()[0].hex() == "95a97d0cdf2158d210e9"


# Parts.


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 65535)), max_size=200))
def test_bits_come_back(pairs):
    encoder = BitEncoder()
    for bit, probability in pairs:
        encoder.code(int(bit), probability)
    decoder = BitDecoder(encoder.finish())
    assert [decoder.code(0, p) for _, p in pairs] == [int(bit) for bit, _ in pairs]


def test_bits_cost_their_information():
    generator = np.random.default_rng(0)
    bits = (generator.random(20_000) < 0.03).astype(int).tolist()
    encoder = BitEncoder()
    for bit in bits:
        encoder.code(bit, 1966)
    information = -sum(math.log2(0.03 if bit else 0.97) for bit in bits) / 8
    assert len(encoder.finish()) == pytest.approx(information, abs=4)


@pytest.mark.parametrize("counts", [[1, 2**46 - 1], [2**46 - 1, 1], [2**45] * 2, [1] * 300])
def test_frequencies_keep_every_symbol_codable(counts):
    scaled = frequencies(np.array(counts))
    assert scaled.min() >= 1
    assert 2**16 <= scaled.sum() <= 2**16 + len(counts)
    symbols = np.arange(len(counts), dtype=np.int32)
    encoder = SymbolEncoder()
    encoder.code(symbols, scaled)
    np.testing.assert_array_equal(
        SymbolDecoder(encoder.finish()).code(symbols, scaled), symbols
    )


@given(st.lists(st.integers(0, 2**63 - 1)))
def test_numbers_come_back(numbers):
    reader = ByteReader(b"".join(map(varint, numbers)))
    assert [reader.varint() for _ in numbers] == numbers
    assert not reader.remaining


@given(st.binary(max_size=300))
def test_packed_bytes_come_back(data):
    reader = ByteReader(pack(data) + b"x")
    assert unpack(reader, len(data)) == data
    assert reader.remaining == 1


def test_inflate_stops_at_the_limit():
    with pytest.raises(CompressedFileError, match="more than 1000"):
        unpack(ByteReader(pack(bytes(10**6))), 1000)
    with pytest.raises(CompressedFileError, match="cannot be unpacked"):
        inflate(b"\xff\xff\xff", 1000)


def test_table_comes_back_and_is_bounded():
    entries = [
        TensorEntry((5, 1, 300), "bfloat16", BULK, 7),
        TensorEntry((0, 2), "bool"),
        TensorEntry((), "uint64", RAW),
    ]
    assert decode_table(ByteReader(encode_table(entries)), 100) == entries
    huge = encode_table([TensorEntry((1 << 40, 1 << 40), "float32", BULK)])
    with pytest.raises(CompressedFileError, match="declares more than"):
        decode_table(ByteReader(huge), 100)


@pytest.mark.parametrize("values", [[], [1.0], [-0.5, 0.25], [-1e-30, 0.1, 3e38]])
def test_codebook_comes_back(values):
    encoder = IndexEncoder()
    encoder.add_codebooks([np.float32(values)])
    (decoded,) = IndexDecoder(encoder.finish()[0], []).codebooks([len(values)])
    assert_same_bits(decoded, np.float32(values))


def test_codebook_of_version_1():
    data = bytes.fromhex("08000080bfcdcccc3d0900b80034")
    reader = ByteReader(data)
    assert_same_bits(decode_codebook(reader), np.float32([-1, 0.1]))
    assert_same_bits(decode_codebook(reader), np.float32([-0.5, 0.25]))
    assert not reader.remaining


@pytest.mark.parametrize("values", [[0.5, 0.25], [0.0], [np.nan], [1, 1]])
def test_codebook_out_of_order_is_turned_down(values):
    data = varint(len(values) << 2) + np.float32(values).tobytes()
    with pytest.raises(CompressedFileError, match="ascending"):
        decode_codebook(ByteReader(data))


@given(
    st.lists(
        hnp.arrays(np.float32, st.integers(1, 9), elements=st.floats(width=32)), max_size=4
    ),
    st.integers(0, 23),
)
def test_floats_come_back(arrays, dropped):
    """Of any bits of mantissa; what the coder does not take is told before."""
    arrays = [(a.view(np.uint32) >> dropped << dropped).view(np.float32) for a in arrays]
    encoder = IndexEncoder()
    taken = [array for array in arrays if encoder.add_numbers(array)]
    for array in arrays:
        normal = np.isfinite(array) & (np.abs(array) >= np.finfo(np.float32).tiny)
        fine = np.all(normal | (array.view(np.uint32) == 0))
        assert fine == any(array is other for other in taken)
    entries = [TensorEntry(array.shape, "float32", NUMBERS) for array in taken]
    decoded = IndexDecoder(encoder.finish()[0], entries).tensors([])
    for array, other in zip(taken, decoded, strict=True):
        assert_same_bits(array, other)


def test_numbers_cost_their_information():
    """Scales of five significant bits, and offsets on a grid of 1/16."""
    generator = np.random.default_rng(0)
    scales = np.asarray(round_significant(np.exp(generator.normal(0, 0.3, 4000)), 5))
    offsets = (generator.integers(-20, 20, 4000) / 16).astype(np.float32)
    for values in (scales.astype(np.float32), offsets):
        encoder = IndexEncoder()
        assert encoder.add_numbers(values)
        assert len(encoder.finish()[0]) < 1.04 * entropy_bytes(values) + 10


def test_too_many_numbers_are_turned_down(monkeypatch):
    monkeypatch.setattr(numbers, "MAX_STEPS", 1000)
    encoder = IndexEncoder()
    assert not encoder.add_numbers(np.ones(1000, np.float32))
    assert encoder.add_numbers(np.float32([1, -2, 3]))
    entry = TensorEntry((1 << 20,), "float32", NUMBERS)
    with pytest.raises(CompressedFileError, match="one by one"):
        list(IndexDecoder(encoder.finish()[0], [entry]).tensors([]))


def test_constant_tensors_take_nothing():
    arrays = [np.zeros(9, np.float32), np.ones((3, 4), np.float32), np.zeros(2, np.int64)]
    decoded, entries, encoded = round_trip(arrays)
    for first, second in zip(decoded, arrays, strict=True):
        assert_same_bits(first, second)
    assert [entry.storage for entry in entries] == [ZEROS, ONES, ZEROS]
    assert encoded.tensor_bytes == (0, 0, 0)


def test_tensors_of_one_mixture_share_a_codebook():
    generator = np.random.default_rng(0)
    other = np.float32([3, 4, 5])
    arrays = [
        generator.choice(VALUES, (40, 30)),
        generator.choice(VALUES[:2], 7),
        generator.choice(other, (40, 30)),
        np.zeros((9, 9), np.float32),
        generator.standard_normal(100).astype(np.float32),
    ]
    codebooks, chosen = assign_codebooks(arrays)
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[3] is chosen[4] is None
    assert [codebook.tolist() for codebook in codebooks] == [VALUES.tolist(), other.tolist()]


def test_matrix_views():
    assert matrix_shape((1 << 18, 1 << 17)) != (1 << 18, 1 << 17)
    assert math.prod(matrix_shape((3, 100_003))) == 3 * 100_003
    assert row_stride((5, 5, 20, 50), 0) == 20
    assert row_stride((784, 300), 0) == 28
    assert row_stride((800, 500), 50) == 50
    assert row_stride((7, 3), 0) == 8


# Whole tensors.

ARRAYS = {
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float32(2.5).reshape(()),
    "one value": np.full((6, 5), 0.3, np.float32),
    "all zero": np.zeros((17, 5), np.float32),
    "one non-zero": np.eye(1, 500, 33, dtype=np.float32),
    "negative zero": np.float32([0.0, -0.0] * 20),
    "not a number": np.full(40, np.nan, np.float32),
    "infinite": np.float32([0, np.inf, -np.inf] * 20),
    "subnormal": np.float32([0, 1e-42, -1e-42] * 20),
    "256 values": np.arange(2048, dtype=np.float32) % 256,
    "257 values": np.arange(2056, dtype=np.float32) % 257 + 1,
    "dense": np.random.default_rng(0).standard_normal((30, 20)).astype(np.float32),
    "float16": np.random.default_rng(0).choice(VALUES, (30, 20)).astype(np.float16),
    "float64": np.random.default_rng(0).choice(VALUES, (30, 20)).astype(np.float64),
    "integers": np.arange(-5, 5, dtype=np.int64),
    "flags": np.array([True, False, True]),
    "five axes": synthetic((3, 3, 2, 4, 5), 0.8, 5, structured=False),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array_comes_back(name):
    (decoded,), _, _ = round_trip([ARRAYS[name]])
    assert_same_bits(decoded, ARRAYS[name])


def test_arrays_together_come_back_and_their_bytes_sum():
    decoded, _, encoded = round_trip(list(ARRAYS.values()))
    for first, second in zip(decoded, ARRAYS.values(), strict=True):
        assert_same_bits(first, second)
    coded = len(encoded.coded) - encoded.codebook_bytes
    assert sum(encoded.tensor_bytes) == coded + len(encoded.plain)


def test_bfloat16_comes_back():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.random.default_rng(0).choice(VALUES, (30, 20)).astype(ml_dtypes.bfloat16)
    dense = np.random.default_rng(0).standard_normal(50).astype(ml_dtypes.bfloat16)
    decoded, entries, _ = round_trip([array, dense])
    assert_same_bits(decoded[0], array)
    assert_same_bits(decoded[1], dense)
    assert entries[0].has_indices


@settings(max_examples=60)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=4, max_side=12),
        elements=st.sampled_from([0.0, -0.0, *VALUES.tolist(), np.inf, 1e-40]),
        fill=st.just(0.0),
    )
)
def test_any_array_comes_back(array):
    (decoded,), _, _ = round_trip([array])
    assert_same_bits(decoded, array)


def test_no_tensors():
    assert round_trip([])[0] == []


def test_float16_rest_is_float16_only_where_it_says_so():
    dense = ARRAYS["dense"]
    large, clustered = dense * np.float32(1e6), synthetic((40, 30), 0.8, 4, structured=False)
    decoded, _, encoded = round_trip([dense, large, clustered], float16_rest=True)
    assert_same_bits(decoded[0], dense.astype(np.float16).astype(np.float32))
    assert_same_bits(decoded[1], large)
    assert_same_bits(decoded[2], clustered)
    assert sum(encoded.tensor_bytes[:2]) < 0.8 * (dense.nbytes + large.nbytes)


# Sizes.


@pytest.fixture
def fast_coder(monkeypatch):
    """Lowers the limit of the slow adaptive coder, so that these tests are fast."""
    monkeypatch.setattr(indices, "_MAX_STEPS", 1 << 14)


@pytest.mark.usefixtures("fast_coder")
@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("num_values", [2, 16, 256])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.92, 0.99, 0.999])
def test_size_is_close_to_the_entropy_or_below(zeros, num_values, structured):
    shapes = [(500, 400), (60, 50), (3, 3, 16, 32)]
    arrays = [synthetic(s, zeros, num_values, structured=structured) for s in shapes]
    for array in arrays:
        (decoded,), _, encoded = round_trip([array])
        assert_same_bits(decoded, array)
        assert encoded.tensor_bytes[0] <= 1.03 * entropy_bytes(array) + 300


@pytest.mark.usefixtures("fast_coder")
def test_structure_pays():
    array = synthetic((500, 400), 0.95, 16, structured=True)
    assert round_trip([array])[2].tensor_bytes[0] < 0.9 * entropy_bytes(array)


@pytest.mark.usefixtures("fast_coder")
@pytest.mark.parametrize("zeros", [0.5, 0.92, 0.99])
def test_smaller_than_xz_of_the_indices(zeros):
    array = synthetic((300, 200), zeros, 16, structured=False)
    symbols = to_symbols(array, assign_codebooks([array])[0][0])
    assert round_trip([array])[2].tensor_bytes[0] < len(lzma.compress(symbols.tobytes()))


def test_small_bias_of_the_same_mixture_costs_next_to_nothing():
    kernel = synthetic((100, 50), 0.9, 8, structured=False)
    bias = np.where(np.arange(50) % 9, 0, kernel[kernel != 0][0]).astype(np.float32)
    encoded = round_trip([kernel, bias])[2]
    assert encoded.codebook_bytes == round_trip([kernel])[2].codebook_bytes
    assert encoded.tensor_bytes[1] < 20


# Damage.


def test_index_outside_of_the_codebook_is_turned_down():
    encoder = IndexEncoder()
    encoder.add(np.full((4, 4), 4, np.uint8), codebook=0, num_symbols=5)
    entry = TensorEntry((4, 4), "float32", ADAPTIVE)
    with pytest.raises(CompressedFileError, match="outside of its codebook"):
        list(IndexDecoder(encoder.finish()[0], [entry]).tensors([VALUES[:3]]))


def test_slow_decoding_is_turned_down():
    entry = TensorEntry((4096, 4096), "float32", ADAPTIVE)
    with pytest.raises(CompressedFileError, match="one by one"):
        list(IndexDecoder(b"", [entry]).tensors([VALUES]))


def test_missing_values_are_turned_down():
    sections = encode_tensors([ARRAYS["dense"]]).sections()
    sections[Section.TENSORS] = sections[Section.TENSORS][:-40]
    with pytest.raises(CompressedFileError, match="cut short"):
        list(TensorReader(sections, 1000).read())


def test_decoder_is_given_the_wrong_bytes():
    data = SymbolEncoder().finish() + b"\x12\x34\x56\x78" * 3
    symbols = np.zeros((40, 40), np.uint8)
    BulkIndexCoder(SymbolDecoder(data), symbols, 4, 41).code()
    assert symbols.shape == (40, 40)
