"""The example of MLPerf Tiny: the whole way with small networks, with its own if at hand."""

import dataclasses

import keras
import numpy as np
import pytest

pytest.importorskip("tabulate")
pytest.importorskip("sklearn")
pytest.importorskip("tf_keras")

import tf_keras

import tfmot_sws as sws
from benchmarks.real_networks import files
from examples import mlperf_tiny as example
from tfmot_sws.litert.export import FORMATS

MODELS = files.find("mlperf_tiny")

# One would train longer: networks of so few steps give warnings of every kind.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]


def draw(rng):
    return example.smooth_noise(8, 12, rng)[..., None]


def build(layers):
    """As the networks of MLPerf Tiny are: separable convolutions with BatchNorm, a softmax."""
    return [
        layers.Conv2D(24, 3, padding="same"),
        layers.BatchNormalization(),
        layers.Activation("relu"),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.Activation("relu"),
        layers.Conv2D(64, 1, use_bias=False),
        layers.BatchNormalization(),
        layers.Activation("relu"),
        layers.Flatten(),
        layers.Dense(3, "softmax"),
    ]


@pytest.fixture(scope="module", params=[keras, tf_keras], ids=lambda library: library.__name__)
def way(request, tmp_path_factory):
    """A small network, the folder of its files, and what the example found."""
    library, folder = request.param, tmp_path_factory.mktemp("way")
    keras.utils.set_random_seed(0)
    model = library.Sequential([library.Input((8, 12, 1)), *build(library.layers)])
    # Fresh weights give each input nearly the same answer, which int8 cannot tell apart.
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([100 * kernel, bias])
    model.save(folder / "small.h5")
    network = dataclasses.replace(
        example.NETWORKS["wake-word"], file="small.h5", library=library, draw=draw
    )
    return network, folder, example.run(network, folder, folder, quick=True)


def test_every_format_has_a_row_and_each_refusal_its_reason(way):
    _, _, found = way
    dense = [f"dense, {weights}" for weights in example.DENSE_FORMATS]
    assert list(found["rows"]) == [*dense, *FORMATS, "int4_codebook, moved"]
    refused = {name: row["refused"] for name, row in found["rows"].items() if "refused" in row}
    # Where tflite-micro is not installed, the note says so.
    assert "pip install" in refused.pop("tflm", "pip install")
    # A network of so few steps may be too coarse for int8, which the reason says.
    rest = [name for name, why in refused.items() if "'relative_error'" not in why]
    assert rest == ["int4_codebook"]
    assert "4 bits cannot hold them" in refused["int4_codebook"]


def test_sizes_and_figures_are_of_this_network(way):
    _, folder, found = way
    assert found["sws bytes"] == (folder / "model.sws").stat().st_size
    assert found["sws bytes"] < 4 * found["parameters"] / 5
    assert found["dense figure"] == 1.0
    for name, row in found["rows"].items():
        if "refused" not in row:
            assert row["raw"] == (folder / f"{name}.tflite").stat().st_size
    assert found["rows"]["float32"]["latency"] == 1.0
    assert found["rows"]["sparse"]["latency"] > 0


@pytest.mark.parametrize("name", ["int8_codebook", "int4_codebook, moved"])
def test_integers_compute_what_the_float_file_of_their_weights_computes(way, name):
    network, folder, _ = way
    small = sws.load_compressed(folder / "model.sws")
    on_grid = (
        example.move_to_int4(network, small)
        if "int4" in name
        else sws.place_on_int8_grid(small)
    )
    x = np.stack([draw(np.random.default_rng(k)) for k in range(20)])
    expected = sws.predict_tflite(sws.convert_to_tflite(on_grid, sample=x), x)
    outputs = sws.predict_tflite((folder / f"{name}.tflite").read_bytes(), x)
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()


def test_notes_name_what_was_refused_in_one_line_each(way):
    _, _, found = way
    notes = example.to_notes(found)
    assert any(note.startswith("int4_codebook: refused: The values of [") for note in notes)
    assert all("\n" not in note and len(note) < 400 for note in notes)
    assert example.to_table(found).row_count == len(found["rows"]) + 2


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ad01\.h5 is not in .*mlcommons/tiny"):
        example.NETWORKS["autoencoder"].load(tmp_path)


def test_measures_know_equal_from_different():
    answers = np.random.default_rng(0).random((50, 3))
    assert example.same_class(answers, answers) == 1.0
    assert example.same_class(answers[:, ::-1], answers) < 0.8
    assert example.explained(answers, answers) == 1.0
    assert example.explained(np.broadcast_to(answers.mean(0), answers.shape), answers) == (
        pytest.approx(0.0)
    )


@pytest.mark.skipif(MODELS is None, reason=f"${files.VARIABLE} names no folder with the files")
@pytest.mark.parametrize("name", example.NETWORKS)
def test_files_can_be_loaded_and_take_the_made_up_inputs(name):
    network = example.NETWORKS[name]
    model = network.load(MODELS)
    if network.draw:
        assert network.draw(np.random.default_rng(0)).shape == model.input_shape[1:]
