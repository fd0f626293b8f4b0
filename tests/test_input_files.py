"""A model's inputs in .npz files come back in the structure that the model takes."""

import keras
import numpy as np
import pytest
from families import FAMILIES

from tfmot_sws.litert.input_files import load_inputs, save_inputs


def assert_same(first, second):
    keras.tree.assert_same_structure(first, second)
    keras.tree.map_structure(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("name", ["sequential", "subclassed", "multi_io"])
def test_inputs_come_back(name, rng, tmp_path):
    inputs, model = FAMILIES[name].make_inputs(rng), FAMILIES[name].build()
    save_inputs(tmp_path / "data.npz", inputs, model)
    assert_same(load_inputs(tmp_path / "data.npz", model), inputs)


def test_names_are_those_of_the_inputs(rng, tmp_path):
    inputs = FAMILIES["multi_io"].make_inputs(rng)
    np.savez(tmp_path / "data.npz", **inputs)
    assert_same(load_inputs(tmp_path / "data.npz", FAMILIES["multi_io"].build()), inputs)


def test_more_than_ten_inputs_keep_their_order(tmp_path):
    inputs = [keras.Input((1,)) for _ in range(12)]
    model = keras.Model(inputs, keras.layers.Concatenate()(inputs))
    arrays = [np.full((2, 1), i) for i in range(12)]
    save_inputs(tmp_path / "data.npz", arrays, model)
    assert_same(load_inputs(tmp_path / "data.npz", model), arrays)


@pytest.mark.parametrize(
    "inputs",
    [
        {"a": np.zeros(2), "b": np.ones(2)},
        {"a": np.zeros(2)},
        [np.zeros(2), np.ones(2)],
        np.ones(2),
    ],
)
def test_a_subclassed_model_gets_what_was_saved(inputs, tmp_path):
    model = FAMILIES["subclassed"].build()
    save_inputs(tmp_path / "data.npz", inputs, model)
    assert_same(load_inputs(tmp_path / "data.npz", model), inputs)


def test_a_file_without_arrays_is_an_error(tmp_path):
    np.savez(tmp_path / "data.npz")
    with pytest.raises(ValueError, match="has no arrays"):
        load_inputs(tmp_path / "data.npz", FAMILIES["sequential"].build())
