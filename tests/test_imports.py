"""Imports point one way, and importing the package has no side effects."""

import ast
import graphlib
import json
import os
import pathlib
import re
import sys

import keras
import numpy as np
import pytest
from processes import output_of

import tfmot_sws

PACKAGE = "tfmot_sws"
ROOT = pathlib.Path(__file__).parents[1] / PACKAGE

# The rooms from the bottom up: a room imports only rooms before it. Modules beside the
# rooms are rooms of their own.
ORDER = (
    "_version",
    "advice",
    "arguments",
    "gzip_size",
    "plain_text",
    "rendering",
    "whole_file",
    "backend",
    "prior",
    "models",
    "coding",
    "training",
    "litert",
    "tf_keras_adapter",
    "visualization",
    "han_size",
    "report",
    "comparison",
    "__init__",
    "cli",
)
# The one lazy door: it imports the adapter, and with it tf_keras, when a model of tf_keras
# arrives.
DOOR = ("models/libraries.py", f"{PACKAGE}.tf_keras_adapter.library")

# The modules that may import what is heavy, optional, or has side effects.
EXTERNAL = {
    "tensorflow": {
        "backend/",
        "training/wrapper.py",
        "tf_keras_adapter/",
        "litert/converter.py",
        "litert/formats.py",
    },
    "ai_edge_litert": {
        "litert/compressed_rows.py",
        "litert/file.py",
        "litert/frugal_file.py",
        "litert/integer_weights.py",
        "litert/shared_integers.py",
        "litert/interpreter.py",
    },
    "ai_edge_quantizer": set(),
    "tflite_micro": {"litert/tflm.py"},
    "tf_keras": {"tf_keras_adapter/"},
    "tensorflow_model_optimization": set(),
    "matplotlib": {"visualization/"},
    "tensorboard": {"visualization/tensorboard.py"},
    "constriction": {"coding/range_coder.py"},
    "h5py": {"coding/keras_file.py", "models/files.py"},
    "jax": {"backend/"},
    "torch": {"backend/"},
}

# Values and pure functions, which anyone can use without Keras.
VALUES = [
    "_version",
    "models/entropy",
    "prior/initialization",
    "prior/mixture",
    "training/schedules",
]


def name_of(path):
    return str(path.relative_to(ROOT))


MODULES = sorted(ROOT.rglob("*.py"), key=name_of)
each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


def imported_names(nodes):
    """Every dotted name that some code imports, inside functions too."""
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            # A module of a room, or a name in a module.
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (n if file_of(n) else node.module for n in names)


def file_of(name):
    """The file of a module of the package, if there is one of this name."""
    path = ROOT.parent / name.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if name.split(".")[0] == PACKAGE and file.is_file():
            return file
    return None


def imports_of(path):
    """The files of the package that a module imports, but for the door."""
    names = imported_names([ast.parse(path.read_text(encoding="utf-8"))])
    found = {name: file_of(name) for name in names if (name_of(path), name) != DOOR}
    return {name: file for name, file in found.items() if file}


def room_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@each_module
def test_imports_point_down(path):
    floor = ORDER.index(room_of(path))
    for name, file in imports_of(path).items():
        assert ORDER.index(room_of(file)) <= floor, f"{name_of(path)} imports {name}"


def test_no_circle_of_imports():
    graph = {path: set(imports_of(path).values()) - {path} for path in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("room", sorted(p.parent.name for p in ROOT.glob("*/__init__.py")))
def test_a_room_says_what_it_imports(room):
    """The last sentence of its docstring names the rooms that it imports, and no others."""
    tree = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
    lines = ast.get_docstring(tree).split("\n")
    assert len([line for line in lines if line]) <= 4
    (sentence,) = re.findall(r"Imports (`.*|no other room)\.", " ".join(lines))
    said = set(re.findall(r"`(\w+)`", sentence))
    files = {file for path in (ROOT / room).glob("*.py") for file in imports_of(path).values()}
    rooms = {room_of(file) for file in files if file.parent != ROOT}
    assert said == rooms - {room}


@each_module
def test_no_local_import_of_the_package(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    local = {n for n in imported_names(functions) if n.split(".")[0] == PACKAGE}
    assert local == ({DOOR[1]} if name_of(path) == DOOR[0] else set())


@each_module
def test_external_imports_are_allowed(path):
    for name in imported_names([ast.parse(path.read_text(encoding="utf-8"))]):
        allowed = EXTERNAL.get(name.split(".")[0], {""})
        assert any(name_of(path).startswith(place) for place in allowed), name
        assert not name.startswith("keras.src"), "public keras only"


def test_external_imports_are_needed():
    used = {name: set() for name in EXTERNAL}
    for path in MODULES:
        for name in imported_names([ast.parse(path.read_text(encoding="utf-8"))]):
            for place in EXTERNAL.get(name.split(".")[0], ()):
                if name_of(path).startswith(place):
                    used[name.split(".")[0]].add(place)
    assert used == EXTERNAL


@pytest.mark.parametrize("module", VALUES)
def test_values_know_no_keras(module):
    names = imported_names([ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))])
    roots = {name.split(".")[0] for name in names}
    assert roots <= sys.stdlib_module_names | {"numpy", "scipy", PACKAGE}


def run_python(code):
    """What a fresh interpreter prints last."""
    clean = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    return output_of(code, clean).split()[-1]


DEVICE = """
import importlib.abc, json, sys

class OnlyNumPy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root not in sys.stdlib_module_names | {"numpy", "tfmot_sws"} and "." not in name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, OnlyNumPy())
import tfmot_sws
from tfmot_sws.coding.arrays import read_arrays
"""


def test_a_device_decodes_files_with_numpy_alone(tmp_path):
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(30)])
    values = np.float32([0, 0.5, -0.25, 3.0])  # exact in bfloat16
    kernel = np.random.default_rng(0).choice(values, (40, 30))
    model.set_weights([kernel, np.linspace(0, 1, 30)])
    tfmot_sws.save_compressed(model, tmp_path / "model.sws")
    large = keras.Sequential([keras.Input((800,)), keras.layers.Dense(700)])
    large.set_weights([np.random.default_rng(0).choice(values, (800, 700)), np.zeros(700)])
    tfmot_sws.save_compressed(large, tmp_path / "large.sws")
    code = f"""{DEVICE}
kernel, bias = read_arrays({str(tmp_path / "model.sws")!r})
try:
    read_arrays({str(tmp_path / "large.sws")!r})
except ImportError as error:
    missing = str(error)
try:
    tfmot_sws.export
except AttributeError as error:
    absent = str(error)
print(json.dumps([kernel.tolist(), bias.tolist(), missing, absent, "keras" in sys.modules]))
"""
    read_kernel, bias, missing, absent, has_keras = json.loads(
        output_of(code, dict(os.environ))
    )
    np.testing.assert_array_equal(np.float32(read_kernel), kernel)
    np.testing.assert_array_equal(np.float32(bias), model.get_weights()[1])
    assert "pip install constriction" in missing
    assert "needs Keras, which is not installed" in absent
    assert not has_keras


def test_import_has_no_side_effects():
    code = """
import os, sys
before = dict(os.environ)
import keras
keras_only, keras_modules = dict(os.environ), set(sys.modules)
import tfmot_sws
heavy = {"tensorflow_model_optimization", "tf_keras", "matplotlib", "tensorboard"}
unwanted = heavy & (set(sys.modules) - keras_modules)
changed = dict(os.environ) != keras_only or "TF_USE_LEGACY_KERAS" in os.environ
print(sorted(unwanted) or changed)
"""
    assert run_python(code) == "False"


@pytest.mark.slow
def test_import_takes_at_most_a_third_of_a_second_more_than_keras():
    code = """
import time
import keras
start = time.perf_counter()
import tfmot_sws
print(time.perf_counter() - start)
"""
    # A busy machine is slow at times, a slow import always.
    assert any(float(run_python(code)) <= 0.3 for _ in range(6))
