"""Tests compressed files: exact round trips, sizes that sum, damaged and hostile files.

The fuzz tests try a few hundred damaged files. A long run takes about ten minutes:

    TFMOT_SWS_MUTANTS=10000 python -m pytest tests/test_coding_files.py -k mutant
"""

import hashlib
import importlib.util
import io
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from families import FAMILIES, RANDOM_NETWORKS
from keras import layers

import tfmot_sws as sws
from benchmarks.mutations import mutate
from tfmot_sws.coding import indices
from tfmot_sws.coding.architecture import describe
from tfmot_sws.coding.container import MAGIC, Section, frame, parse_sections
from tfmot_sws.coding.text import decode_text, encode_text

NUM_MUTANTS = int(os.environ.get("TFMOT_SWS_MUTANTS", "200"))
VALUES = np.float32([-0.3, 0.1, 0.2, 0.45])


def cluster(model, generator, zeros=0.8):
    """Gives the kernels of a model few values, as stripping does."""
    for variable in model.weights:
        if len(variable.shape) > 1:
            values = generator.choice(VALUES, variable.shape)
            values[generator.random(variable.shape) < zeros] = 0
            variable.assign(values)
    return model


def bits_of(model):
    return [np.asarray(v).tobytes() for v in model.variables]


@pytest.fixture
def small(rng):
    """Makes a model with variables of every storage: clustered, plain, integer."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(9, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ],
        name="small",
    )
    model.layers[1].set_weights([rng.standard_normal(9) for _ in range(4)])
    return cluster(model, rng)


@pytest.fixture
def file(small, tmp_path):
    path = tmp_path / "small.sws"
    sws.save_compressed(small, path)
    return path


def with_architecture(file, change):
    """Replaces the architecture in a file, with correct checksums."""
    parts = parse_sections(file.read_bytes())
    text = change(decode_text(parts[Section.ARCHITECTURE]).decode())
    parts[Section.ARCHITECTURE] = encode_text(text.encode())
    file.write_bytes(b"".join(frame(parts)))
    return file


# Round trips.


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_family_comes_back_bit_for_bit(name, rng, tmp_path):
    keras.utils.set_random_seed(1)
    model = cluster(FAMILIES[name].build(), rng)
    path = tmp_path / "model.sws"
    sws.save_compressed(model, path)
    loaded = sws.load_compressed(path)
    assert type(loaded) is type(model)
    assert not loaded.compiled
    assert bits_of(loaded) == bits_of(model)
    assert [v.name for v in loaded.variables] == [v.name for v in model.variables]
    assert path.stat().st_size == sws.coded_sizes(model).total
    inputs = FAMILIES[name].make_inputs(rng)
    for first, second in zip(
        keras.tree.flatten(model(inputs)), keras.tree.flatten(loaded(inputs)), strict=True
    ):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_weights_only_fill_a_model_built_by_code(name, rng, tmp_path):
    model = cluster(FAMILIES[name].build(), rng)
    path = tmp_path / "weights.sws"
    sws.save_compressed(model, path, weights_only=True)
    other = FAMILIES[name].build()
    assert sws.load_compressed(path, model=other) is other
    assert bits_of(other) == bits_of(model)
    assert path.stat().st_size == sws.coded_sizes(model, weights_only=True).total


def test_names_and_config_come_back(small, file):
    loaded = sws.load_compressed(file)
    assert loaded.name == "small"
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in small.layers]
    assert describe(loaded) == describe(small)


def test_odd_values_come_back(small, tmp_path):
    kernel = np.zeros((12, 9), np.float32)
    kernel[0, :4] = [-0.0, np.inf, -np.inf, 1e-42]
    payload = np.array([0x7FC12345], np.uint32).view(np.float32)[0]
    small.layers[0].set_weights([kernel, np.full(9, payload)])
    sws.save_compressed(small, tmp_path / "odd.sws")
    assert bits_of(sws.load_compressed(tmp_path / "odd.sws")) == bits_of(small)


def test_layers_with_derived_state_compute_the_same(rng, tmp_path):
    normalization = layers.Normalization()
    normalization.adapt(rng.standard_normal((64, 5)) * 3 + 7)
    model = keras.Sequential([keras.Input((5,)), normalization, layers.Dense(2)])
    sws.save_compressed(model, tmp_path / "model.sws")
    x = rng.standard_normal((4, 5)).astype("float32")
    loaded = sws.load_compressed(tmp_path / "model.sws")
    np.testing.assert_array_equal(loaded(x), model(x))


@RANDOM_NETWORKS
def test_wrapped_and_stripped_for_real(rng, tmp_path):
    shared = sws.apply_soft_weight_sharing(FAMILIES["functional"].build(), num_components=5)
    shared.compile("adam", "mse")
    x = rng.standard_normal((32, 8, 8, 3)).astype("float32")
    callbacks = [sws.AnnealAndMerge()]
    shared.fit(x, x[:, 0, 0], epochs=2, batch_size=8, verbose=0, callbacks=callbacks)
    plain = sws.strip_soft_weight_sharing(shared)
    sws.save_compressed(plain, tmp_path / "model.sws")
    assert bits_of(sws.load_compressed(tmp_path / "model.sws")) == bits_of(plain)


def test_float16_rest_rounds_what_has_no_codebook(small, tmp_path):
    sws.save_compressed(small, tmp_path / "half.sws", float16_rest=True)
    loaded = sws.load_compressed(tmp_path / "half.sws")
    np.testing.assert_array_equal(*(np.asarray(m.layers[0].kernel) for m in (loaded, small)))
    rounded = np.asarray(small.layers[1].gamma).astype("float16").astype("float32")
    np.testing.assert_array_equal(loaded.layers[1].gamma, rounded)


# Keras needs JAX for its NumPy backend, too.
BACKENDS = {"numpy": "jax", "jax": "jax", "torch": "torch"}
ANOTHER_PROGRAM = """
import hashlib, sys, keras, numpy as np, tfmot_sws as sws
assert keras.backend.backend() == sys.argv[2]
model = sws.load_compressed(sys.argv[1])
arrays = [keras.ops.convert_to_numpy(v) for v in model.variables]
# Backends differ in the dtype of a random generator's state.
arrays = [a.astype("int64") if a.dtype.kind in "iu" else a for a in arrays]
print(hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_backend_reads_the_same(backend, small, file):
    if importlib.util.find_spec(BACKENDS[backend]) is None:
        pytest.skip(f"{BACKENDS[backend]} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROGRAM, str(file), backend],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=pathlib.Path(sws.__file__).parents[1],
    )
    arrays = [np.asarray(v) for v in small.variables]
    arrays = [a.astype("int64") if a.dtype.kind in "iu" else a for a in arrays]
    expected = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
    assert done.stdout.split()[-1] == expected


@pytest.mark.parametrize(("stored", "own"), [("int64", "uint32"), ("uint32", "int64")])
def test_integers_may_differ_in_width(stored, own, tmp_path):
    def counting(dtype):
        layer = layers.Layer(name="counter")
        layer.add_weight(name="state", shape=(2,), dtype=dtype, trainable=False)
        model = keras.Sequential([keras.Input((3,)), layer])
        layer.variables[0].assign([4_000_000_000, 7])
        return model

    sws.save_compressed(counting(stored), tmp_path / "w.sws", weights_only=True)
    model = counting(own)
    model.variables[0].assign([0, 0])
    sws.load_compressed(tmp_path / "w.sws", model=model)
    assert np.asarray(model.variables[0]).tolist() == [4_000_000_000, 7]


# Sizes.


def test_parts_sum_to_the_file(small, file):
    sizes = sws.coded_sizes(small)
    assert sum(sizes.parts.values()) == sizes.total == file.stat().st_size
    assert sum(size for _, size in sizes.variables) == sizes.indices + sizes.rest
    assert [path for path, _ in sizes.variables] == [v.path for v in small.variables]
    assert json.loads(json.dumps(sizes.to_dict()))["total"] == sizes.total


def test_report_has_the_bytes_of_the_file(small, file):
    report = sws.compression_report(small)
    assert report.coded_bytes == file.stat().st_size
    assert report.to_dict()["coded_parts"] == sws.coded_sizes(small).parts
    kernel = report.tensors[0]
    assert kernel.coded_bytes == dict(sws.coded_sizes(small).variables)[kernel.path]


def test_report_of_a_model_that_cannot_be_stored_counts_its_weights():
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x), layers.Dense(4)])
    report = sws.compression_report(model)
    assert report.coded_bytes == sws.coded_sizes(model, weights_only=True).total


@pytest.mark.parametrize("width", [80, 100, 200])
def test_report_fits_the_terminal(width, small):
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as captured:
        sws.compression_report(small).print(console)
    text = captured.get()
    assert max(map(len, text.splitlines())) <= width
    assert ("entropy" in text) == (width > 100)
    for word in (small.layers[0].name, "coded", "ratio", "Huffman"):
        assert word in text


def test_small_network_has_a_small_overhead(rng):
    model = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    sizes = sws.coded_sizes(cluster(model, rng, zeros=0.99))
    assert sizes.architecture + sizes.framing < 150
    assert sizes.codebooks <= 2 + 4 * VALUES.size


# Writing.


def test_failed_write_leaves_the_old_file(small, file, monkeypatch):
    before = file.read_bytes()

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        sws.save_compressed(cluster(small, np.random.default_rng(9)), file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_files_in_memory_are_written_and_read(small):
    file = io.BytesIO()
    sws.save_compressed(small, file)
    file.seek(0)
    assert bits_of(sws.load_compressed(file)) == bits_of(small)
    assert len(file.getvalue()) == sws.coded_sizes(small).total
    with pytest.raises(TypeError, match="opened as text"):
        sws.save_compressed(small, io.StringIO())


def test_a_bad_path_is_an_error_before_any_work(tmp_path):
    for path in ("", ".", tmp_path):
        with pytest.raises(IsADirectoryError):
            sws.save_compressed("no model", path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_stored_is_turned_down(small, tmp_path):
    path = tmp_path / "no.sws"
    lambdas = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x)])
    with pytest.raises(ValueError, match=r"Lambda.*weights_only=True"):
        sws.save_compressed(lambdas, path)
    lookup = layers.StringLookup()  # That has not been adapted.
    words = keras.Sequential([keras.Input((1,), dtype="string"), lookup, layers.Dense(1)])
    with pytest.raises(ValueError, match="keeps more than weights and configuration"):
        sws.save_compressed(words, path)
    with pytest.raises(TypeError, match="strip_soft_weight_sharing"):
        sws.save_compressed(sws.apply_soft_weight_sharing(small, num_components=3), path)
    with pytest.raises(ValueError, match="not built"):
        sws.save_compressed(keras.Sequential([layers.Dense(3)]), path)
    with pytest.raises(TypeError, match="Expected a Keras model"):
        sws.save_compressed("model.keras", path)
    assert not path.exists()


def test_model_that_does_not_rebuild_is_turned_down(tmp_path):
    @keras.saving.register_keras_serializable(package="tfmot_sws_tests")
    class Careless(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(2)

        def build(self, input_shape):
            self.built = True

        def call(self, inputs):
            return self.dense(inputs)

    model = Careless()
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(ValueError, match=r"cannot be rebuilt.*build\(\)"):
        sws.save_compressed(model, tmp_path / "no.sws")


# Reading.


def test_model_of_other_shapes_is_left_as_it_was(small, file):
    other = keras.models.clone_model(small)
    wider = keras.Sequential([keras.Input((12,)), layers.Dense(10)])
    before = bits_of(wider)
    with pytest.raises(ValueError, match="has 2 variables, the file"):
        sws.load_compressed(file, model=wider)
    other.layers[0].kernel._dtype = "float16"
    with pytest.raises(ValueError, match=r"kernel' is float16 .*holds float32"):
        sws.load_compressed(file, model=other)
    assert bits_of(wider) == before


def test_damage_leaves_the_model_as_it_was(small, file):
    before = bits_of(small)
    parts = parse_sections(file.read_bytes())
    parts[Section.TENSORS] = parts[Section.TENSORS][:-9]
    file.write_bytes(b"".join(frame(parts)))
    with pytest.raises(sws.CompressedFileError):
        sws.load_compressed(file, model=small)
    assert bits_of(small) == before


def test_weights_only_without_a_model_is_turned_down(small, tmp_path):
    sws.save_compressed(small, tmp_path / "w.sws", weights_only=True)
    with pytest.raises(ValueError, match="weights only"):
        sws.load_compressed(tmp_path / "w.sws")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Not a compressed model"),
        (b"PK\x03\x04", "Not a compressed model"),
        (MAGIC, "cut short"),
        (MAGIC + b"\x05", "version 5"),
        (MAGIC + b"\x03", "version 3"),
        (MAGIC + b"\x01\x88", "unknown sections"),
        (MAGIC + b"\x01\x00more", "4 bytes after the last"),
        (MAGIC + b"\x01\x02" + b"\xff" * 10, "longer than"),
        (MAGIC + b"\x01\x02" + b"\xff" * 8 + b"\x7f", "cut short"),
    ],
)
def test_what_is_no_file_is_turned_down(data, message, tmp_path):
    path = tmp_path / "bad.sws"
    path.write_bytes(data)
    with pytest.raises(sws.CompressedFileError, match=message):
        sws.load_compressed(path)


def test_every_cut_and_every_flipped_bit_is_found(file):
    data = file.read_bytes()
    for size in range(len(data)):
        with pytest.raises(sws.CompressedFileError):
            parse_sections(data[:size])
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(sws.CompressedFileError):
            parse_sections(bytes(flipped))


HOSTILE = {
    "lambda": lambda text: text.replace('"class_name":"Dropout"', '"class_name":"Lambda"'),
    "own lambda": lambda text: text.replace('"relu"', '{"class_name":"__lambda__","config":1}'),
    "os.system": lambda text: text.replace(
        '"relu"', '{"module":"os","class_name":"function","config":"system"}'
    ),
    "download": lambda text: text.replace(
        '"relu"', '{"module":"keras.utils","class_name":"function","config":"get_file"}'
    ),
    "other file": lambda text: text.replace(
        '"class_name":"Dropout","config":{',
        '"class_name":"StringLookup","config":{"vocabulary":"/etc/passwd",',
    ),
    "SavedModel": lambda text: text.replace('"Dropout"', '"TFSMLayer"'),
    "load_model": lambda text: text.replace(
        '"relu"', '{"module":"keras.models","class_name":"function","config":"load_model"}'
    ),
    "unknown class": lambda text: text.replace(
        '"module":"keras.layers","class_name":"Dropout"', '"module":"x","class_name":"Y"'
    ),
    "huge layer": lambda text: text.replace('"units":3', '"units":1000000000000'),
    "huge input": lambda text: text.replace("12]", "1000000000]"),
    "no layers": lambda text: re.sub(r'"layers":\[.*\],"build', '"layers":[],"build', text),
    "a layer": lambda text: re.search(
        r'\{"module":"keras.layers","class_name":"Dense".*', text
    )[0].split(',{"module":"keras.layers","class_name":"BatchN')[0],
    "a list": lambda text: f"[{text}]",
    "a number": lambda _: "3",
    "not JSON": lambda text: text[:-1],
    "deep": lambda _: "[" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_architecture_is_turned_down(name, file):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(sws.CompressedFileError):
        sws.load_compressed(with_architecture(file, HOSTILE[name]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_own_class_needs_registration_or_custom_objects(tmp_path):
    class Doubling(layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    with keras.saving.custom_object_scope({"Doubling": Doubling}):
        model = keras.Sequential([keras.Input((4,)), Doubling(), layers.Dense(2)])
        sws.save_compressed(model, tmp_path / "own.sws")
        assert bits_of(sws.load_compressed(tmp_path / "own.sws")) == bits_of(model)
    with pytest.raises(sws.CompressedFileError, match=r"'Doubling'.*custom_objects"):
        sws.load_compressed(tmp_path / "own.sws")
    loaded = sws.load_compressed(tmp_path / "own.sws", custom_objects={"Doubling": Doubling})
    assert type(loaded.layers[0]) is Doubling


# Fuzzing.


def mutate_text(text, generator):
    """Changes a random number or word of an architecture."""
    tokens = list(re.finditer(rb"\d+|\w+|null", text))
    token = tokens[generator.integers(len(tokens))]
    other = tokens[generator.integers(len(tokens))][0]
    numbers = [b"0", b"-1", b"99999999999", b"1e308", b"null", b"[]", b"{}"]
    new = generator.choice([other, numbers[generator.integers(len(numbers))], b""])
    return text[: token.start()] + bytes(new) + text[token.end() :]


def assert_bounded(load):
    """Loads within time and memory limits; returns the model, or `None` if it is rejected."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        return load()
    except sws.CompressedFileError:
        return None
    finally:
        assert time.monotonic() - start < 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


def test_mutants_are_rejected_or_equal(small, file):
    generator, data = np.random.default_rng(1), file.read_bytes()
    for _ in range(NUM_MUTANTS):
        file.write_bytes(mutate(data, generator))
        loaded = assert_bounded(lambda: sws.load_compressed(file))
        assert loaded is None or bits_of(loaded) == bits_of(small)


@pytest.mark.parametrize("section", list(Section), ids=lambda section: section.name)
@pytest.mark.parametrize("max_steps", [0, 1 << 17], ids=["bulk", "adaptive"])
def test_mutants_with_right_checksums_are_bounded(section, max_steps, small, file, monkeypatch):
    monkeypatch.setattr(indices, "_MAX_STEPS", max_steps)
    sws.save_compressed(small, file)
    generator = np.random.default_rng(section.value)
    parts = parse_sections(file.read_bytes())
    for _ in range(NUM_MUTANTS // 4):
        changed = {**parts, section: mutate(parts[section], generator)}
        file.write_bytes(b"".join(frame(changed)))
        assert_bounded(lambda: sws.load_compressed(file))


def test_mutants_of_the_architecture_are_bounded(small, file):
    generator = np.random.default_rng(5)
    parts, text = parse_sections(file.read_bytes()), describe(small)
    for _ in range(NUM_MUTANTS):
        changed = {**parts, Section.ARCHITECTURE: encode_text(mutate_text(text, generator))}
        file.write_bytes(b"".join(frame(changed)))
        assert_bounded(lambda: sws.load_compressed(file))
