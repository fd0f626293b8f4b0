"""Says which classes and functions of Keras a stored architecture may name.

Belonging to Keras is no proof of harmlessness: functions below `keras.` write images, load
data sets and change the settings of the process, and there are layers that run stored
code. So there is a list, `allowed_names.json`, of classes that do nothing but arithmetic.
`tests/keras_names.py` writes it.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from tfmot_sws.coding.table import DTYPES
from tfmot_sws.models.rebuild import dicts_in

# Values, not classes, that Keras stores with a class name.
CONSTANTS: Final = ("__tensor__", "__numpy__")
PLAIN: Final = ("__keras_tensor__", "__ellipsis__", "__slice__", *CONSTANTS)
# Layers that run stored code or read other files.
_UNSAFE: Final = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper")
# Settings by which Keras finds a function or class of its own, by the end of their names.
_KINDS: Final = {
    "activation": "activations",
    "constraint": "constraints",
    "initializer": "initializers",
    "regularizer": "regularizers",
}
# Settings that take a function, and the words that Keras documents for them.
_DOCUMENTED: Final = {
    "split": ("whitespace", "character"),
    "standardize": ("lower", "strip_punctuation", "lower_and_strip_punctuation"),
}
# Layers of tf_keras that call a function of TensorFlow by its name.
_BY_NAME: Final = ("TFOpLambda", "SlicingOpLambda")
_OF_COMPILING: Final = re.compile(r"builtins|keras\.(losses|metrics|optimizers(\.schedules)?)")
_MODULES_OF_FUNCTIONS: Final = ("builtins", "keras.activations")


class Names(NamedTuple):
    """The names of one library that a file may use.

    Args:
        classes: modules and names of classes, joined by a dot.
        words: short names of activations, constraints, initializers and regularizers.
        functions: functions of TensorFlow that a layer may call.
    """

    classes: frozenset[str]
    words: dict[str, frozenset[str]]
    functions: frozenset[str]


@functools.cache
def names_of(package: str) -> Names:
    """Returns the names of "keras" or "tf_keras"."""
    text = (importlib.resources.files(__package__) / "allowed_names.json").read_text()
    lists = json.loads(text)[package]
    return Names(
        classes=frozenset(f"{m}.{n}" for m, names in lists["classes"].items() for n in names),
        words={kind: frozenset(words) for kind, words in lists["words"].items()},
        functions=frozenset(lists.get("functions", ())),
    )


def code_problem(part: dict[str, Any]) -> str | None:
    """Names what is wrong with a part that is not safe whatever the reader registered."""
    name = part["class_name"]
    if not isinstance(name, str):
        return f"a class without a name ({str(part)[:60]!r})"
    if name in _UNSAFE:
        return f"{name!r}, which holds code and not data"
    if name in CONSTANTS:
        return _constant_problem(part.get("config"))
    if name not in PLAIN and "module" not in part:
        return f"{name!r} without a module, so that any class of that name could be meant"
    return None


def name_problem(part: dict[str, Any], package: str) -> str | None:
    """Names what is wrong with a part that the reader has not registered."""
    names, name, module = names_of(package), part["class_name"], part.get("module")
    settings = part.get("config")
    if name == "function":
        known = module in _MODULES_OF_FUNCTIONS and _is_in(names.words["activations"], settings)
        return None if known else f"the function {str(settings)[:60]!r} of {module!r}{_ADVICE}"
    if f"{module}.{name}" not in names.classes:
        return f"{name!r} of {module!r}{_ADVICE}"
    if not isinstance(settings, dict):
        return f"{name!r} without settings"
    if name in _BY_NAME and not _is_in(names.functions, settings.get("function")):
        return f"{name!r} of {str(settings.get('function'))[:60]!r}, which may do anything"
    return next(filter(None, (_setting_problem(*s, names) for s in settings.items())), None)


def compile_problem(config: Any) -> str | None:
    """Names what is wrong with the losses, metrics and optimizers in a configuration."""
    compiled = (part["compile_config"] for part in dicts_in(config) if "compile_config" in part)
    for part in dicts_in(list(compiled)):
        module = str(part.get("module"))
        if part.get("class_name") is not None and not _OF_COMPILING.fullmatch(module):
            return f"{str(part['class_name'])[:60]!r} of {module!r} to compile with"
    return None


_ADVICE: Final = (
    ", which is neither on the list of Keras' own parts that a file may name nor registered "
    "with keras.saving.register_keras_serializable nor in custom_objects"
)


def _setting_problem(key: str, value: Any, names: Names) -> str | None:
    if key == "vocabulary" and isinstance(value, str):
        return "a vocabulary that is read from another file"
    if value is None or isinstance(value, dict):
        return None
    kind = _KINDS.get(key.rpartition("_")[2])
    allowed = names.words[kind] if kind else _DOCUMENTED.get(key)
    if allowed is None or _is_in(allowed, value):
        return None
    return f"{key}={str(value)[:60]!r}{_ADVICE}"


def _is_in(words: Collection[str], value: Any) -> bool:
    return isinstance(value, str) and value in words


def _constant_problem(config: Any) -> str | None:
    """Names what is wrong with a constant: NumPy would make gigabytes of dtype S999999999."""
    if not isinstance(config, dict) or config.get("dtype") not in DTYPES:
        return f"a constant that is no array of numbers ({str(config)[:60]})"
    return None if _is_numbers(config.get("value")) else "a constant that is no numbers"


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_numbers, value))
    return isinstance(value, bool | int | float)
