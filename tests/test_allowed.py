"""The lists of names that a file may use agree with the Keras that is installed.

If a test here fails after an upgrade of Keras, see what has changed, and run
`python tests/keras_names.py` if it is harmless.
"""

import importlib
import importlib.metadata
import json

import keras_names
import pytest

from tfmot_sws.coding.allowed import names_of

LIBRARIES = {"keras": keras_names.keras_3, "tf_keras": keras_names.tf_keras_2}
KNOWN = json.loads(keras_names.ARGUMENTS.read_text())
each_library = pytest.mark.parametrize("package", LIBRARIES)


def installed(package):
    pytest.importorskip(package)
    return LIBRARIES[package]()


@each_library
def test_every_name_stands_for_a_class_that_was_looked_at(package):
    """An installed class of a listed name has no arguments that were not looked at."""
    classes, listed = installed(package), names_of(package).classes
    assert set(KNOWN[package]) == listed
    found = {
        name: set(keras_names.arguments(classes[name])) for name in classes if name in listed
    }
    new = {name: args - set(KNOWN[package][name]) for name, args in found.items()}
    assert {name: args for name, args in new.items() if args} == {}


@each_library
def test_no_name_stands_for_something_else(package):
    """A listed name that is no class of its kind any more is nothing at all."""
    classes, library = installed(package), importlib.import_module(package)
    for name in names_of(package).classes - set(classes):
        found = library
        for part in name.split(".")[1:]:
            found = getattr(found, part, None)
        assert found is None, name


@each_library
def test_lists_are_those_of_the_version_that_they_were_written_with(package):
    classes = installed(package)
    if KNOWN["versions"][package] != importlib.metadata.version(package):
        pytest.skip("another version may have more names, or lack some")
    assert names_of(package).classes == set(classes)


@each_library
def test_what_runs_code_is_on_no_list(package):
    names = {name.rpartition(".")[2] for name in names_of(package).classes}
    assert not names & keras_names.LEFT_OUT
    assert not any("keras.utils" in n or "keras.models" in n for n in names_of(package).classes)


@each_library
def test_words_are_those_of_the_library(package):
    library = pytest.importorskip(package)
    words = keras_names.words(library)
    for kind, listed in names_of(package).words.items():
        assert listed
        for word in listed & set(words[kind]):
            found = getattr(getattr(library, kind), word)
            assert found.__module__.startswith(f"{package}.src.{kind}"), word
