"""Files of earlier versions of the format load bit for bit.

`tests/data/version_1` holds such files, and beside each the arrays of
`model.get_weights()` that it was written from; `version_2` the same models.
"""

import pathlib

import keras
import numpy as np
import pytest

import tfmot_sws as sws

DATA = pathlib.Path(__file__).parent / "data"
FILES = sorted(DATA.glob("version_*/*.sws"))
names = [f"{path.parent.name}-{path.stem}" for path in FILES]
each_file = pytest.mark.parametrize("path", FILES, ids=names)

# The options that a file was written with.
OPTIONS = {
    "weights_only": {"weights_only": True},
    "float16_rest": {"float16_rest": True},
}


def two_layers():
    """The model whose weights `weights_only.sws` holds."""
    return keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(30, name="a"),
            keras.layers.Dense(4, name="b"),
        ]
    )


def load(path):
    if path.stem == "tf_keras":
        pytest.importorskip("tf_keras")
    model = two_layers() if path.stem == "weights_only" else None
    return sws.load_compressed(path, model=model)


def test_there_are_files():
    for version in (1, 2):
        found = {p.stem for p in FILES if p.read_bytes()[3] == version}
        assert found >= {"bulk", "tf_keras", *OPTIONS}


@each_file
def test_every_array_is_equal_bit_for_bit(path):
    stored = np.load(DATA / "version_1" / f"{path.stem}.npz")
    loaded = load(path).get_weights()
    assert len(loaded) == len(stored.files)
    for number, array in enumerate(loaded):
        expected = stored[f"arr_{number}"]
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes()


def test_a_file_of_tf_keras_gives_a_model_of_tf_keras():
    tf_keras = pytest.importorskip("tf_keras")
    found = [path for path in FILES if path.stem == "tf_keras"]
    assert found
    assert all(isinstance(load(path), tf_keras.Model) for path in found)


@each_file
def test_the_loaded_model_is_written_no_larger_and_comes_back(path, tmp_path):
    loaded = load(path)
    sws.save_compressed(loaded, tmp_path / path.name, **OPTIONS.get(path.stem, {}))
    # What each later version saves on such files.
    saved = 1 if path.parent.name == "version_1" else 0
    assert (tmp_path / path.name).stat().st_size <= path.stat().st_size - saved
    model = two_layers() if path.stem == "weights_only" else None
    again = sws.load_compressed(tmp_path / path.name, model=model)
    for array, expected in zip(again.get_weights(), loaded.get_weights(), strict=True):
        assert array.tobytes() == expected.tobytes()
