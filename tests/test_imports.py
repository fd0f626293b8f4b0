"""Imports point one way, and importing the package has no side effects."""

import ast
import os
import pathlib
import sys

import pytest
from processes import output_of

PACKAGE = "tfmot_sws"
ROOT = pathlib.Path(__file__).parents[1] / PACKAGE

# What each module of the package may import of the package. A package such as `coding`
# is one row; ANY may import everything.
ANY = {"*"}
ALLOWED = {
    "__init__": ANY,
    "cli": ANY,
    # Values and pure functions.
    "_version": set(),
    "schedules": set(),
    "mixture": set(),
    "codebook": {"mixture"},
    "initialization": {"mixture"},
    # Tensors.
    "compilation": set(),
    "hyperpriors": set(),
    "binning": set(),
    "packing": set(),
    "density": set(),
    "knots": {"compilation", "density"},
    "density_table": {"compilation", "density", "knots", "packing"},
    "dither": set(),
    "assignment": {"compilation", "density"},
    "snap": {"assignment", "binning", "compilation", "density", "dither"},
    "prior_options": {"hyperpriors"},
    "prior": {
        "assignment",
        "density",
        "density_table",
        "hyperpriors",
        "initialization",
        "mixture",
        "prior_options",
        "snap",
    },
    "complexity_weight": set(),
    "held_gradients": {"compilation", "density", "density_table", "packing", "prior"},
    # Keras models, of Keras 3 or tf_keras.
    "model_view": set(),
    "selection": {"model_view"},
    "train_size": set(),
    "replica_losses": set(),
    "distillation": set(),
    "sharing": {"compilation", "complexity_weight", "held_gradients", "prior", "selection"},
    # `fit` without the callback adds the default one.
    "fitting": {"callbacks", "train_size"},
    "model": {"compilation", "fitting", "prior", "replica_losses", "selection", "sharing"},
    "wrapping": {
        "hyperpriors",
        "model",
        "model_view",
        "prior",
        "prior_options",
        "selection",
        "tf_keras_adapter",
    },
    "callbacks": {"complexity_weight", "mixture", "model", "model_view", "prior", "schedules"},
    "rebuild": {"model_view", "tf_keras_adapter"},
    "strip": {"codebook", "model", "model_view", "rebuild", "tf_keras_adapter"},
    # What tf_keras needs; imported by others within functions, once such a model arrives.
    "tf_keras_adapter": {
        "callbacks",
        "coding",
        "fitting",
        "model_view",
        "prior",
        "selection",
        "sharing",
        "strip",
        "tf_keras_adapter",
        "train_size",
    },
    "scopes": {"tf_keras_adapter"},
    # Stripped models.
    "coding": {
        "coding",
        "codebook",
        "mixture",
        "model_view",
        "rebuild",
        "tf_keras_adapter",
    },
    "report": {"codebook", "coding", "model_view"},
    "model_graph": set(),
    "batch_norm": {"codebook", "model_graph", "model_view", "rebuild"},
    # .tflite files.
    "tflite_converter": {"model_view"},
    "tflite_file": set(),
    "tflite_report": {"tflite_file"},
    "tflite_interpreter": {"tflite_converter"},
    "tflm": {"tflite_converter", "tflite_file", "tflite_interpreter"},
    "verification": {"tflite_file", "tflite_interpreter", "tflm"},
    "int8_grid": {"model_view", "rebuild", "tflite_converter", "tflite_file"},
    "tflite_formats": {
        "batch_norm",
        "int8_grid",
        "rebuild",
        "tflite_converter",
        "tflite_file",
        "tflite_interpreter",
        "tflm",
        "verification",
    },
    "tflite_process": {"rebuild", "tflite_converter", "tflite_formats"},
    "litert": {
        "batch_norm",
        "model_view",
        "rebuild",
        "tflite_converter",
        "tflite_formats",
        "tflite_interpreter",
        "tflite_process",
        "verification",
    },
    "visualization": {
        "codebook",
        "mixture",
        "model_view",
        "selection",
        "strip",
        "visualization",
    },
    "summaries": {"model_view"},
}

# Who may import what is heavy, optional or has side effects.
EXTERNAL = {
    "tensorflow": {
        "compilation",
        "model",
        "model_view",
        "tf_keras_adapter",
        "tflite_converter",
        "tflite_formats",
    },
    "ai_edge_litert": {"tflite_file", "tflite_interpreter"},
    "ai_edge_quantizer": {"int8_grid"},
    "tflite_micro": {"tflm"},
    "tf_keras": {"scopes", "tf_keras_adapter", "tflite_converter"},
    "tensorflow_model_optimization": set(),
    "matplotlib": {"visualization"},
    "tensorboard": {"summaries"},
    "constriction": {"coding"},
    "jax": {"compilation"},
    "torch": {"compilation"},
}

VALUES = ["_version", "codebook", "initialization", "mixture", "schedules"]
MODULES = sorted(ROOT.rglob("*.py"))


def imported_names(path):
    """Every dotted name that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def row_of(path):
    """The row of the tables that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def is_main_package(name):
    return name.split(".")[0] == PACKAGE


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_edges_are_allowed(path):
    allowed = ALLOWED[row_of(path)]
    edges = {n.split(".")[1] for n in imported_names(path) if is_main_package(n)}
    assert allowed == ANY or edges <= allowed, f"not allowed: {edges - allowed}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_external_imports_are_allowed(path):
    for name in imported_names(path):
        assert row_of(path) in EXTERNAL.get(name.split(".")[0], ALLOWED), name
        assert not name.startswith("keras.src"), "public keras only"


@pytest.mark.parametrize("module", VALUES)
def test_values_know_no_keras(module):
    names = {name.split(".")[0] for name in imported_names(ROOT / f"{module}.py")}
    assert names <= sys.stdlib_module_names | {"numpy", "scipy", PACKAGE}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tf_keras_is_imported_only_when_it_is_needed(path):
    """The adapter at the top of no other module, which would import tf_keras with it."""
    if row_of(path) == "tf_keras_adapter":
        return
    top = ast.parse(path.read_text(encoding="utf-8")).body
    names = [node.module for node in top if isinstance(node, ast.ImportFrom)]
    assert not any(name.startswith(f"{PACKAGE}.tf_keras_adapter") for name in names)


@pytest.mark.parametrize("row", sorted(set(ALLOWED) - {"__init__", "cli"}))
def test_rows_allow_no_more_than_is_imported(row):
    paths = [path for path in MODULES if row_of(path) == row]
    names = [name for path in paths for name in imported_names(path)]
    assert paths
    assert {n.split(".")[1] for n in names if is_main_package(n)} == ALLOWED[row]


def test_tables_name_modules_once():
    assert set(VALUES) <= set(ALLOWED)
    assert set().union(*ALLOWED.values(), *EXTERNAL.values()) <= set(ALLOWED) | ANY


def run_python(code):
    """What a fresh interpreter prints last."""
    clean = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    return output_of(code, clean).split()[-1]


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
    assert min(float(run_python(code)) for _ in range(3)) <= 0.3
