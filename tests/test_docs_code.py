"""Every block of Python in the README and the documentation runs."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfmot_sws as sws

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Blocks that need more than one process or device, by what they contain, with the test that
# runs the same.
ELSEWHERE = {
    "MirroredStrategy()": "test_distribution",
    "keras.distribution": "test_distribution",
    "find_smallest(": "test_find_smallest",
}
# What the reader of a block has done before it, by what the block contains.
TRAINING = """
shared.compile("adam", "sparse_categorical_crossentropy")
history = shared.fit(x_train, y_train, epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge()])
"""
STRIPPING = TRAINING + "small = sws.strip_soft_weight_sharing(shared)\n"
BEFORE = {
    ("guide", "visualization.plot_history"): TRAINING,
    ("guide", "shared.save("): TRAINING,
    ("deployment", '"int4_codebook", sample'): STRIPPING,
}
# Trainings of a few steps may come out as they like.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def images(generator, count=256):
    x = generator.random((count, 8, 8)).astype("float32")
    return x, generator.integers(0, 10, count)


def classifier(library=keras):
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((8, 8)),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(64, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )


def trained(model):
    """Wrapped, trained for two epochs, and stripped."""
    x, y = images(np.random.default_rng(1))
    shared = sws.apply_soft_weight_sharing(model)
    shared.compile("adam", "sparse_categorical_crossentropy")
    history = shared.fit(x, y, epochs=2, verbose=0, callbacks=[sws.AnnealAndMerge()])
    return shared, sws.strip_soft_weight_sharing(shared), history


def common_names():
    """What a page says that its reader has."""
    x, y = images(np.random.default_rng(0))
    model = classifier()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return {
        "keras": keras,
        "sws": sws,
        "model": model,
        **{f"x_{name}": x for name in ("train", "valid", "test")},
        **{f"y_{name}": y for name in ("train", "valid", "test")},
        "EPOCHS": 2,
        "BATCH_SIZE": 64,
    }


def prepare_readme():
    classifier().save("pretrained.keras")
    return common_names()


def prepare_index():
    return {
        **common_names(),
        "x": common_names()["x_train"],
        "y": common_names()["y_train"],
        "steps": 160,
    }


def prepare_guide():
    return {**common_names(), "pruned": classifier(), "tf_keras_model": classifier(tf_keras)}


def prepare_deployment():
    shared, small, _ = trained(classifier())
    sws.save_compressed(small, "model.sws")
    return {**common_names(), "small": small, "shared": shared, "pretrained": classifier()}


def prepare_tfmot():
    import tensorflow_model_optimization as tfmot

    x, y = images(np.random.default_rng(0))
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Input((8, 8)),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(64, activation="relu"),
            tf_keras.layers.Dense(10),
        ]
    )
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    names = {"x": x, "y": y, "x_train": x, "model": model, "loss": loss, "sws": sws}
    return {**names, "tf_keras": tf_keras, "tfmot": tfmot}


def prepare_start():
    """Photos, and a small network in place of one whose weights must be downloaded."""
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        folder = pathlib.Path("photos") / name
        folder.mkdir(parents=True)
        for i in range(40):
            pixels = generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return {}


def small_backbone(input_shape, **_):
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.SeparableConv2D(64, 3, 4),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(64, 3, 4),
            layers.GlobalAveragePooling2D(),
        ]
    )


PREPARE = {
    "README": prepare_readme,
    "index": prepare_index,
    "guide": prepare_guide,
    "deployment": prepare_deployment,
    "coming_from_tfmot": prepare_tfmot,
    "start": prepare_start,
}


def blocks_of(page):
    """Line number and code of each block of Python."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[1]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(blocks_of(page))], ids=lambda page: page.stem
)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.applications, "MobileNetV2", small_backbone)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    keras.utils.set_random_seed(0)
    names = PREPARE[page.stem]()
    for line, code in blocks_of(page):
        if any(part in code for part in ELSEWHERE):
            continue
        for (where, part), done in BEFORE.items():
            if part in code and page.stem == where:
                exec(done, names)
        # Line numbers of a failure are those of the page.
        exec(compile("\n" * line + code, str(page), "exec"), names)
    tf.keras.backend.clear_session()
