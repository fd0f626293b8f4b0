"""`.keras` files of strangers: the command line loads no more than from `.sws` files."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from hostile import cheap
from keras import layers

import tfmot_sws as sws
from tfmot_sws.coding.keras_file import check_keras_file
from tfmot_sws_cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model within a compiled model."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner])
    model.compile("sgd", "mse", metrics=["mae"])
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return path


def changed(saved, path, change_config=lambda c: c, change_weights=lambda data: data):
    """A copy of a file with another configuration or other weights."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                config = json.loads(data)
                data = json.dumps(change_config(config) or config).encode()
            if name == "model.weights.h5":
                data = change_weights(data)
            target.writestr(name, data)
    return path


def refuse(path, match):
    with cheap(), pytest.raises(sws.CompressedFileError, match=match):
        check_keras_file(path)


def inner_of(config):
    return config["config"]["layers"][1]


def test_a_file_of_keras_is_loaded(saved, tmp_path):
    check_keras_file(saved)
    assert main(["compress", str(saved), str(tmp_path / "model.sws")]) == 0
    loaded = sws.load_compressed(tmp_path / "model.sws")
    np.testing.assert_array_equal(
        loaded.get_weights()[0], keras.models.load_model(saved).get_weights()[0]
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.utils", "plot_model"),
        ("keras.config", "set_epsilon"),
        ("keras.datasets", "mnist"),
    ],
)
def test_functions_that_do_things_are_refused(module, name, saved, tmp_path):
    function = {"module": module, "class_name": "function", "config": name}

    def as_activation(config):
        inner_of(config)["config"]["layers"][1]["config"]["activation"] = function

    def as_loss(config):
        inner_of(config)["compile_config"] = {"optimizer": "adam", "loss": function}

    refuse(changed(saved, tmp_path / "a.keras", as_activation), "neither on the list")
    refuse(changed(saved, tmp_path / "b.keras", as_loss), "to compile with")


def test_lambdas_need_trust(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x), layers.Dense(2)])
    path = tmp_path / "model.keras"
    model.save(path)
    assert main(["report", str(path)]) == 1
    assert "'Lambda', which holds code" in capsys.readouterr().err
    assert main(["report", str(path), "--trust"]) == 0


def test_memory_is_bounded_by_the_file(saved, tmp_path):
    def wide(config):
        text = json.dumps(config).replace('"units": 3', '"units": 10000000')
        return json.loads(text)

    refuse(changed(saved, tmp_path / "a.keras", wide), "asks for variables of 200000000 bytes")
    with zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("config.json", bytes(1 << 26))
    refuse(tmp_path / "b.keras", "unfolds to 67108864 bytes")


def make_weights(fill):
    def change(_):
        file = io.BytesIO()
        with h5py.File(file, "w") as weights:
            fill(weights)
        return file.getvalue()

    return change


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda f: f.create_dataset("a", (1 << 30,), chunks=(1 << 10,)), "bytes of values"),
        (lambda f: f.update({"a": h5py.ExternalLink("/etc/x.h5", "b")}), "a link to another"),
        (lambda f: f.update({"a": h5py.SoftLink("/b")}), "a link to another"),
        (
            lambda f: f.create_dataset("a", (8,), "u1", external="/etc/passwd"),
            "a link to another",
        ),
    ],
)
def test_weights_are_in_the_file_and_no_more_than_it_holds(fill, message, saved, tmp_path):
    path = changed(saved, tmp_path / "model.keras", change_weights=make_weights(fill))
    refuse(path, message)


def test_damage_is_one_sentence(saved, tmp_path):
    path = changed(saved, tmp_path / "a.keras", change_weights=lambda _: b"no weights")
    refuse(path, "The weights in the .keras file are not readable")
    path.write_bytes(b"no file")
    refuse(path, "is no readable .keras file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    refuse(path, "is no readable .keras file")
