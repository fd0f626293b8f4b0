"""Tests sizes against slow, independent counts, totals, and rejected models."""

import dataclasses
import heapq
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

import tfmot_sws as sws
from tfmot_sws.han_size import han_bits, huffman_bits
from tfmot_sws.models.codebook import ClusteredTensor
from tfmot_sws.models.entropy import entropy_bits
from tfmot_sws.report import compression_report

COUNTS = st.lists(st.integers(0, 1000), max_size=40)
SPARSE = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=2, max_side=60),
    elements=st.sampled_from([0.0] * 8 + [-1.0, 0.5, 2.0]),
    fill=st.just(0.0),
)


# Huffman codes, tested against code words that are written down.


def code_words(counts):
    """Builds the prefix code of the symbols that occur, by merging labelled trees."""
    trees = [(n, i, {i: ""}) for i, n in enumerate(counts) if n > 0]
    if len(trees) == 1:
        return {trees[0][1]: "0"}
    heapq.heapify(trees)
    while len(trees) > 1:
        (n, i, left), (m, _, right) = heapq.heappop(trees), heapq.heappop(trees)
        words = {s: "0" + w for s, w in left.items()} | {s: "1" + w for s, w in right.items()}
        heapq.heappush(trees, (n + m, i, words))
    return trees[0][2] if trees else {}


@given(COUNTS)
def test_huffman_is_the_length_of_the_written_message(counts):
    words = code_words(counts)
    assert huffman_bits(counts) == sum(counts[s] * len(word) for s, word in words.items())


@given(COUNTS)
def test_huffman_is_within_a_bit_of_the_entropy(counts):
    total, bits = sum(counts), entropy_bits(counts) * sum(counts)
    assert bits - 1e-6 <= huffman_bits(counts) <= bits + total + 1e-6


@pytest.mark.parametrize(
    ("counts", "bits"), [([], 0), ([0, 0], 0), ([7], 7), ([0, 7], 7), ([3, 5], 8)]
)
def test_huffman_of_few_symbols(counts, bits):
    assert huffman_bits(counts) == bits


# Deep Compression's format, tested against symbols that are written down.


def written_symbols(flat, index_bits):
    """Returns gaps and values in the order of the file; the value of a filler is `None`."""
    gaps, values, gap = [], [], 0
    for value in flat:
        if value == 0 and gap < 2**index_bits - 1:
            gap += 1
        else:
            gaps.append(gap)
            values.append(None if value == 0 else value)
            gap = 0
    last = max((i for i, value in enumerate(values) if value is not None), default=-1)
    return gaps[: last + 1], values[: last + 1]


def slow_han_bits(array, most_index_bits=12):
    sizes = []
    for index_bits in range(1, most_index_bits + 1):
        bits = 32 * len(set(array.ravel().tolist()))
        for symbols in written_symbols(array.ravel().tolist(), index_bits):
            counts = [symbols.count(symbol) for symbol in set(symbols)]
            words = code_words(counts)
            bits += sum(n * len(words[i]) + 8 for i, n in enumerate(counts))
        sizes.append(bits)
    return min(sizes)


@settings(max_examples=60)
@given(SPARSE)
def test_han_bits_is_the_size_of_the_written_file(array):
    assert han_bits(ClusteredTensor.from_array(array)) == slow_han_bits(array)


@pytest.mark.parametrize("gap", [0, 1, 2, 3, 4, 15, 16, 17, 4095, 4096, 10_000])
def test_han_bits_with_one_far_entry(gap):
    array = np.zeros(gap + 50, np.float32)
    array[gap] = array[gap + 3] = 1.5
    assert han_bits(ClusteredTensor.from_array(array)) == slow_han_bits(array)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_han_bits_of_a_constant(value):
    array = np.full(100, value, np.float32)
    # Without zeros each entry takes one bit for its gap and one for its value; the two table
    # entries take 8 bits each.
    expected = 32 if value == 0 else 32 + 2 * (100 + 8)
    assert han_bits(ClusteredTensor.from_array(array)) == slow_han_bits(array) == expected


def test_han_bits_of_nothing():
    assert han_bits(ClusteredTensor.from_array(np.zeros((0, 3)))) == 0


# The report.


@pytest.fixture
def model(rng):
    """Makes a model of a clustered kernel, a dense kernel, and a bias of zeros."""
    keras.utils.set_random_seed(2)
    layers = [
        keras.Input((8,)),
        keras.layers.Dense(16, use_bias=False, name="clustered"),
        keras.layers.Dense(4, name="dense"),
    ]
    built = keras.Sequential(layers)
    kernel = np.zeros(8 * 16, np.float32)
    kernel[: 8 * 4], kernel[8 * 4 : 8 * 8] = 0.5, -0.25
    built.layers[0].kernel.assign(rng.permutation(kernel).reshape(8, 16))
    return built


def test_clustered_kernel(model):
    record = compression_report(model).tensors[0]
    assert record.path.endswith("clustered/kernel")
    assert record.clustered
    assert (record.shape, record.size, record.distinct) == ((8, 16), 8 * 16, 3)
    assert record.zeros == 8 * 8
    assert record.dense_bytes == 8 * 16 * 4
    # Frequencies of 1/2, 1/4, 1/4 have an entropy of 1.5 bits.
    assert record.entropy_bits == pytest.approx(1.5)
    assert record.entropy_bytes == pytest.approx(8 * 16 * 1.5 / 8 + 3 * 4)
    assert record.han_bytes == slow_han_bits(np.asarray(model.layers[0].kernel)) / 8


def test_unclustered_kernel_counts_in_full(model):
    record = compression_report(model).tensors[1]
    assert not record.clustered
    assert record.entropy_bits == 32
    assert record.distinct == 16 * 4
    assert record.dense_bytes == record.entropy_bytes == record.han_bytes == 16 * 4 * 4


def test_bias_of_zeros_costs_its_codebook(model):
    record = compression_report(model).tensors[2]
    assert (record.zeros, record.distinct, record.dense_bytes) == (4, 1, 4 * 4)
    assert record.entropy_bytes == record.han_bytes == 4


def test_totals_are_sums(model):
    report = compression_report(model)
    records = [dataclasses.asdict(t) for t in report.tensors]
    for name in ("dense_bytes", "entropy_bytes", "han_bytes"):
        assert getattr(report, name) == pytest.approx(sum(r[name] for r in records))
    assert report.dense_bytes == 4 * (8 * 16 + 16 * 4 + 4)
    assert report.num_weights == 8 * 16 + 16 * 4 + 4
    assert report.num_zeros == 8 * 8 + 4
    assert report.zero_share == pytest.approx((8 * 8 + 4) / (8 * 16 + 4))
    assert report.compression_ratio == pytest.approx(report.dense_bytes / report.han_bytes)


def test_integers_count_in_their_own_size():
    class Codes(keras.layers.Layer):
        def build(self, input_shape):
            self.add_weight(name="codes", shape=(5, 2), dtype="int8", initializer="zeros")

        def call(self, inputs):
            return inputs

    report = compression_report(keras.Sequential([keras.Input((2,)), Codes()]))
    assert not report.tensors[0].clustered
    assert report.dense_bytes == report.han_bytes == 5 * 2 * 1


def test_to_dict_is_json(model):
    report = compression_report(model)
    loaded = json.loads(json.dumps(report.to_dict()))
    assert loaded["dense_bytes"] == report.dense_bytes
    assert loaded["compression_ratio"] == pytest.approx(report.compression_ratio)
    assert [t["path"] for t in loaded["tensors"]] == [v.path for v in model.weights]
    assert loaded["tensors"][0]["shape"] == [8, 16]


def test_table_names_every_tensor_and_the_total(model):
    console = Console(width=200)
    with console.capture() as captured:
        compression_report(model).print(console)
    text = captured.get()
    for variable in model.weights:
        assert variable.path in text
    assert f"{4 * (8 * 16 + 16 * 4 + 4)}" in text
    assert "Compression report" in str(compression_report(model))


def test_model_without_weights_has_an_empty_report():
    report = compression_report(keras.Sequential([keras.Input((3,)), keras.layers.ReLU()]))
    assert report.tensors == ()
    assert report.num_weights == report.dense_bytes == report.zero_share == 0
    assert "total" in str(report)


def test_wrapped_model_is_turned_down(model):
    with pytest.raises(
        TypeError, match=r"A stripped model is expected.*strip_soft_weight_sharing"
    ):
        compression_report(sws.apply_soft_weight_sharing(model, num_components=3))


def test_unbuilt_model_is_turned_down():
    with pytest.raises(ValueError, match=r"not built.*Call it once on a batch"):
        compression_report(keras.Sequential([keras.layers.Dense(2)]))


def dense(kernel, bias):
    """A model of one layer with these weights."""
    layers = [keras.Input((len(kernel),)), keras.layers.Dense(len(bias), name="d")]
    model = keras.Sequential(layers)
    model.set_weights([kernel, bias])
    return model


def test_advice_is_on_the_largest_part(rng):
    clustered = rng.choice(np.float32([0, 0.5, -1]), (60, 50))
    random = rng.standard_normal((60, 50))
    advice = {
        name: sws.compression_report(dense(*weights)).advice
        for name, weights in {
            "architecture": (np.zeros((6, 5)), np.zeros(5)),
            "indices": (clustered, np.zeros(50)),
            "kernel": (random, np.zeros(50)),
            "bias": (clustered[:2], random[0]),
        }.items()
    }
    assert advice["architecture"].startswith("Largest: architecture, ")
    assert "weights_only=True" in advice["architecture"]
    assert "complexity_weight" in advice["indices"]
    assert "d/kernel is not shared, see weight_choices" in advice["kernel"]
    assert "d/bias and the like" in advice["bias"]
    assert "rounding=True" in advice["bias"]


# Notebooks and the prompt.


def named_model(name):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name=name)])
    model.set_weights([np.tile(np.float32([0, 0, 0, 0.5]), (8, 1)), np.zeros(4)])
    return model


def test_a_notebook_shows_a_table_that_fits_dark_and_light():
    html = compression_report(named_model("a_layer"))._repr_html_()
    assert html.startswith("<pre")
    assert "a_layer/kernel" in html
    assert "8x4" in html
    assert "background" not in html
    assert "CompressionReport(" not in html


def test_html_shows_names_as_text():
    html = compression_report(named_model("<script>[bold]"))._repr_html_()
    assert "&lt;script&gt;[bold]/kernel" in html
    assert "<script>" not in html


def test_repr_of_a_report_is_one_line():
    report = compression_report(named_model("a"))
    assert repr(report) == (
        f"CompressionReport(2 tensors, {4 * (8 * 4 + 4):,} -> {report.coded_bytes:,} bytes, "
        f"{report.coded_ratio:.1f}x, 77.8% zeros)"
    )


def test_result_of_export_is_a_table_in_a_notebook_and_a_line_at_the_prompt(tmp_path):
    result = sws.export(named_model("a"), tmp_path / "a.tflite", "float32")
    html, line = result._repr_html_(), repr(result)
    assert html.startswith("<pre")
    assert "Weights in the file" in html
    assert f"{result.raw_bytes:,}" in html
    assert "\n" not in line
    assert line.startswith(f"Verification({result.raw_bytes:,} bytes")
    assert "tensors=" not in line
    assert result.comparison in line
