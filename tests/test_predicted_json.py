"""The text of an architecture, of which much is predicted."""

import json

import keras
import numpy as np
import pytest
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from tfmot_sws.coding.architecture import describe
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.text import decode_text, encode_text

PREDICTED = 1


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def blocks(number):
    """A network of equal blocks."""
    inputs = x = keras.Input((16, 16, 8))
    for _ in range(number):
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x)))
        x = layers.Add()([x, y])
    return keras.Model(inputs, x)


@pytest.mark.parametrize("name", FAMILIES)
def test_text_comes_back(name):
    text = describe(FAMILIES[name].build())
    assert decode_text(encode_text(text)) == text


def test_a_repeated_block_costs_a_few_bytes():
    few, many = (len(encode_text(describe(blocks(number)))) for number in (4, 12))
    assert many - few < 8 * 8


names = st.sampled_from(["name", "layers", "config", "class_name", "filters", "shape", "ö\n"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 99) | st.floats(allow_nan=False) | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=30,
)


@settings(max_examples=200)
@given(st.dictionaries(names, values, max_size=5), st.sampled_from(["Dense", "Own"]))
def test_any_object_comes_back(config, name):
    text = compact({**config, "class_name": name, "copies": [config, config, config]})
    assert decode_text(encode_text(text)) == text


@pytest.mark.parametrize("text", [b"", b"{", b"[1,2]", b'{"class_name": 1}', b"\xff\x00"])
def test_what_is_no_object_of_a_class_comes_back(text):
    encoded = encode_text(text)
    assert encoded[0] != PREDICTED
    assert decode_text(encoded) == text


def test_damage_ends_in_one_error():
    generator = np.random.default_rng(0)
    data = encode_text(describe(blocks(2)))
    assert data[0] == PREDICTED
    turned_down = 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[generator.integers(len(data))] = generator.integers(256)
        try:
            decode_text(bytes(damaged))
        except CompressedFileError:
            turned_down += 1
    assert turned_down > 20


def test_more_work_than_any_model_needs_is_turned_down(monkeypatch):
    text = describe(blocks(1))
    data = encode_text(text)
    monkeypatch.setattr("tfmot_sws.coding.predicted_json._MAX_WORK", 1 << 12)
    with pytest.raises(CompressedFileError, match="larger than that of any model"):
        decode_text(data)
    assert decode_text(encode_text(text)) == text
