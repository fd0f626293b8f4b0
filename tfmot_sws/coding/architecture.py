"""Writes the architecture of a Keras model as text, and builds models from untrusted text."""

from __future__ import annotations

import concurrent.futures
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras

from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.table import VariableKind, fits
from tfmot_sws.models.libraries import (
    Library,
    TooLargeError,
    library_named,
    library_of,
    view_of,
    walk,
)
from tfmot_sws.models.rebuild import dicts_in

CustomObjects = Mapping[str, Any] | None

# Layers that run stored code or read other files.
_UNSAFE: Final = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper")
# Values, not classes, that Keras stores with a class name.
_PLAIN: Final = ("__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__slice__")

# Key that names the library of a model that is not of Keras 3.
_LIBRARY: Final = "library"


def describe(model: keras.Model) -> bytes:
    """Returns the configuration of a model as JSON.

    Raises:
        ValueError: the model has no configuration, or one that is not safe to load.
    """
    advice = "Save it with weights_only=True, and load it with model= a model built by code."
    try:
        library = library_of(model)
        config = library.saving.serialize_keras_object(model)
        config.pop("compile_config", None)
        if library.name:
            config[_LIBRARY] = library.name
        text = json.dumps(config, separators=(",", ":"), ensure_ascii=False).encode()
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) has no configuration that can "
            f"be stored: {error}. {advice}"
        ) from error
    problem = _problem(config, {}, library) or _asset_problem(model)
    if problem:
        raise ValueError(f"Model '{model.name}' cannot be stored with {problem}. {advice}")
    return text


def _asset_problem(model: keras.Model) -> str | None:
    for layer in walk(model):
        if hasattr(layer, "save_assets") and not layer.get_config().get("vocabulary"):
            return f"layer '{layer.name}', whose vocabulary is not in its configuration"
    return None


def build_architecture(
    text: bytes, variables: Sequence[VariableKind], custom_objects: CustomObjects
) -> keras.Model:
    """Builds the model that the text describes, with initial weights.

    The arguments and errors are those of `check_architecture`, which runs first.
    """
    return _build(text, check_architecture(text, variables, custom_objects))


def check_architecture(
    text: bytes, variables: Sequence[VariableKind], custom_objects: CustomObjects
) -> dict[str, Any]:
    """Checks that a text is safe to load and describes a model with these variables.

    Builds the model once without memory for its weights, so that a text that asks for
    more variables than the file holds costs nothing.

    Args:
        text: from `describe`, or from an unknown source.
        variables: shape and dtype of each variable that the model must have.
        custom_objects: classes and functions by name that the text may refer to.

    Returns:
        The custom and registered objects that the text refers to.

    Raises:
        CompressedFileError: the text does not describe a model, or not one with these
            variables, or refers to a class that is neither Keras' own, nor registered,
            nor among the custom objects.
    """
    objects = _checked_objects(text, custom_objects)
    sizes = [math.prod(shape) for shape, _ in variables]
    # Keras keeps a list of uninitialized variables per thread. In a thread of its own, the
    # model built without memory leaves none of them behind.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        wanted = thread.submit(_variables_without_memory, text, objects, sizes).result()
    if len(wanted) != len(variables) or not all(map(fits, wanted, variables)):
        raise CompressedFileError(
            f"The architecture has {len(wanted)} variables, the file {len(variables)}, and "
            "they do not agree in shape and dtype. The file is damaged or hostile, or was "
            "written with another version of a custom class."
        )
    return objects


def variables_of(model: keras.Model) -> list[VariableKind]:
    """Returns shape and dtype of all variables of a model, in their order."""
    return [(tuple(v.shape), v.dtype) for v in view_of(model).variables]


def _variables_without_memory(
    text: bytes, objects: dict[str, Any], sizes: list[int]
) -> list[VariableKind]:
    with _library_of(json.loads(text)).limited(sizes):
        return variables_of(_build(text, objects))


def _library_of(config: dict[str, Any]) -> Library:
    name = config.get(_LIBRARY)
    try:
        return library_named(name)
    except KeyError as error:
        raise CompressedFileError(
            f"The file holds a model of {str(name)[:60]!r}; Keras 3 and 'tf_keras' are "
            "known. It was written by a later version."
        ) from error
    except ImportError as error:
        raise CompressedFileError(
            f"The file holds a model of tf_keras (Keras 2), which cannot be imported: {error}. "
            "Install it: pip install tf_keras."
        ) from error


def _build(text: bytes, objects: dict[str, Any]) -> keras.Model:
    # Keras modifies the configuration that it is given, so every build parses the text.
    config = json.loads(text)
    library = _library_of(config)
    config.pop(_LIBRARY, None)
    try:
        model = library.saving.deserialize_keras_object(
            config, custom_objects=objects, safe_mode=True
        )
    except TooLargeError as error:
        raise CompressedFileError(
            f"The architecture asks for a variable of shape {error.shape}, "
            "which the file does not hold. Do not use the file."
        ) from error
    # Keras and custom classes may raise any exception at a damaged configuration.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise CompressedFileError(
            f"The architecture cannot be built ({type(error).__name__}: {reason}). The file "
            "is damaged, or was written by another version of Keras or of a custom class."
        ) from error
    if not isinstance(model, library.model):
        raise CompressedFileError(
            f"The architecture is a {type(model).__name__}, not a model. Do not use the file."
        )
    return model


def _checked_objects(text: bytes, custom_objects: CustomObjects) -> dict[str, Any]:
    """Returns the registered and custom objects that a text refers to, if it is safe."""
    objects = dict(custom_objects or {})
    try:
        config = json.loads(text)
        problem = _problem(config, objects, _library_of(config)) if _is_dict(config) else None
    except (ValueError, RecursionError) as error:
        raise CompressedFileError(
            f"The architecture is not readable ({type(error).__name__}). The file is "
            "damaged; copy or download it again."
        ) from error
    if not _is_dict(config) or problem:
        raise CompressedFileError(
            f"The architecture is not loaded, since it has {problem or 'no class'}. Do not "
            "use the file unless you know where that comes from."
        )
    return objects


def _is_dict(config: Any) -> bool:
    return isinstance(config, dict)


def _problem(config: Any, objects: dict[str, Any], library: Library) -> str | None:
    """Names a part of a configuration that is not safe to load, or returns `None`.

    Adds the registered and custom classes that it meets to `objects`.
    """
    named = (
        part
        for part in dicts_in(config)
        if part.get("class_name") is not None and part["class_name"] not in _PLAIN
    )
    problems = (_class_problem(part, objects, library) for part in named)
    return next(filter(None, problems), None)


def _class_problem(
    config: dict[str, Any], objects: dict[str, Any], library: Library
) -> str | None:
    name, module = config["class_name"], config.get("module")
    if name in _UNSAFE:
        return f"{name!r}, which holds code and not data"
    is_function = name == "function"
    key = config.get("config") if is_function else config.get("registered_name") or name
    if not isinstance(key, str) or not isinstance(name, str):
        return f"a class without a name ({str(config)[:60]!r})"
    found = library.saving.get_registered_object(key, custom_objects=objects)
    if found is not None:
        objects[key] = found
        return None
    problem = _settings_problem(config, library)
    if problem:
        return problem
    modules = library.function_modules if is_function else library.class_modules
    if isinstance(module, str) and modules.fullmatch(module):
        return None
    return (
        f"{name!r} of {module!r}, which is neither Keras' own nor registered with "
        "keras.saving.register_keras_serializable nor in custom_objects"
    )


def _settings_problem(config: dict[str, Any], library: Library) -> str | None:
    settings = config.get("config")
    if isinstance(settings, dict) and isinstance(settings.get("vocabulary"), str):
        return "a vocabulary that is read from another file"
    if library.is_unsafe(config):
        return f"{config['class_name']!r} of {str(settings)[:200]}, which may do anything"
    return None
