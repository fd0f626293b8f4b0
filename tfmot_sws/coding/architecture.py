"""Writes the architecture of a Keras model as text, and builds models from untrusted text."""

from __future__ import annotations

import concurrent.futures
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import keras

from tfmot_sws.coding.allowed import PLAIN, code_problem, compile_problem, name_problem
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.limits import check_text, weights_problem, work_problem
from tfmot_sws.coding.stored_graph import graph_problem
from tfmot_sws.coding.table import DTYPES, TensorEntry, VariableKind, fits
from tfmot_sws.models.libraries import (
    Library,
    TooLargeError,
    library_named,
    library_of,
    view_of,
    walk,
)
from tfmot_sws.models.quick_building import found_by_name
from tfmot_sws.models.rebuild import dicts_in, edit_dicts, roll_recurrences
from tfmot_sws.models.vocabularies import layers_with_assets, vocabularies_in_configs
from tfmot_sws.models.wrapped import Wrapped
from tfmot_sws.plain_text import plain

CustomObjects = Mapping[str, Any] | None

# Each step of an unrolled recurrence takes a millisecond or so to build.
_MAX_STEPS: Final = 1 << 10
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
        with vocabularies_in_configs(model):
            config = library.saving.serialize_keras_object(model)
            without_text = layers_with_assets(model)
        config = edit_dicts(config, _not_compiled)
        if library.name:
            config[_LIBRARY] = library.name
        text = json.dumps(config, separators=(",", ":"), ensure_ascii=False).encode()
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) has no configuration that can "
            f"be stored: {error}. {advice}"
        ) from error
    problem = _problem(config, {}, library)
    problem = problem or _state_problem(model)
    if not problem and without_text:
        problem = f"layer '{without_text[0]}', which keeps more than weights and configuration"
    if problem:
        raise ValueError(f"Model '{model.name}' cannot be stored with {problem}. {advice}")
    return text


def _not_compiled(part: dict[str, Any]) -> dict[str, Any]:
    """Leaves out losses, metrics and optimizer of a model."""
    return {key: value for key, value in part.items() if key != "compile_config"}


def _state_problem(model: keras.Model) -> str | None:
    # Keras 3 makes their states from values, for which a reader would need the memory before
    # it has checked the file.
    stateful = [layer.name for layer in walk(model) if getattr(layer, "stateful", False)]
    if stateful and not library_of(model).name:
        return f"layer '{stateful[0]}', which is stateful"
    return None


def build_architecture(
    text: bytes,
    variables: Sequence[VariableKind],
    custom_objects: CustomObjects,
    num_bytes: int,
) -> keras.Model:
    """Builds the model that the text describes, with some weights or other.

    The arguments and errors are those of `check_architecture`, which runs first.
    """
    objects = check_architecture(text, variables, custom_objects, num_bytes)
    with _library_of(json.loads(text)).quick_building() as quick:
        return _build(text, {**quick, **objects})


def check_architecture(
    text: bytes,
    variables: Sequence[VariableKind],
    custom_objects: CustomObjects,
    num_bytes: int,
) -> dict[str, Any]:
    """Checks that a text is safe to load and describes a model with these variables.

    Builds the model once without memory for its weights, so that a text that asks for
    more variables than the file holds costs nothing.

    Args:
        text: from `describe`, or from an unknown source.
        variables: shape and dtype of each variable that the model must have.
        custom_objects: classes and functions by name that the text may refer to.
        num_bytes: size of the text in the file, which limits what may be built from it.

    Returns:
        The custom and registered objects that the text refers to.

    Raises:
        CompressedFileError: the text does not describe a model, or not one with these
            variables, or asks for more work than its size justifies, or refers to a
            class that is neither on the list of Keras' own, nor registered, nor among
            the custom objects.
    """
    objects = _checked_objects(_parsed(text), custom_objects, num_bytes, len(variables))
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


def check_keras_architecture(text: bytes, max_bytes: int) -> None:
    """Checks the configuration in a `.keras` file, from an unknown source.

    Args:
        text: the configuration as JSON.
        max_bytes: most bytes that the variables of the model may take in memory.

    Raises:
        CompressedFileError: the text is not safe to load, or the model takes more.
    """
    config = _parsed(text)
    # Keras builds the losses and metrics of models within the model, and calls none of them.
    _refuse(compile_problem(config))
    config = edit_dicts(config, _not_compiled)
    # The text is not compressed. In a .sws file it takes a fortieth or so.
    objects = _checked_objects(config, None, len(text) // 40)
    text = json.dumps(config).encode()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        made = thread.submit(_variables_without_memory, text, objects, [max_bytes]).result()
    needed = sum(TensorEntry(*kind).num_bytes for kind in made if kind[1] in DTYPES)
    if needed > max_bytes:
        raise CompressedFileError(
            f"The architecture asks for variables of {needed} bytes, more than the "
            f"{max_bytes} that the size of the file justifies. Do not use it."
        )


def variables_of(model: keras.Model) -> list[VariableKind]:
    """Returns shape and dtype of all variables of a model, in their order."""
    return [(tuple(v.shape), v.dtype) for v in view_of(model).variables]


def _variables_without_memory(
    text: bytes, objects: dict[str, Any], sizes: list[int]
) -> list[VariableKind]:
    library = _library_of(json.loads(text))
    with library.limited(sizes), library.quick_building() as quick:
        model = _build(text, {**quick, **objects}, unroll=False)
    steps = library.unrolled_steps(model)
    if steps > _MAX_STEPS and _is_unrolled(text):
        raise CompressedFileError(
            f"The architecture unrolls a recurrence over {steps} steps; at most {_MAX_STEPS} "
            "are built. Save the model with unroll=False."
        )
    return variables_of(model)


def _is_unrolled(text: bytes) -> bool:
    return any(part.get("unroll") for part in dicts_in(json.loads(text)))


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


def _build(text: bytes, objects: dict[str, Any], *, unroll: bool = True) -> keras.Model:
    # Keras modifies the configuration that it is given, so every build parses the text.
    config = json.loads(text)
    library = _library_of(config)
    config.pop(_LIBRARY, None)
    config = edit_dicts(config, lambda part: found_by_name(_not_compiled(part)))
    if not unroll:
        config = roll_recurrences(config)
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
        # Keras puts whole configurations in front of the cause.
        cause = str(error).rpartition("Exception encountered: ")[2]
        reason = plain(cause.partition("\n")[0][:200])
        raise CompressedFileError(
            f"The architecture cannot be built ({type(error).__name__}: {reason}). The file "
            "is damaged, or was written by another version of Keras or of a custom class."
        ) from error
    if not isinstance(model, library.model):
        raise CompressedFileError(
            f"The architecture is a {type(model).__name__}, not a model. Do not use the file."
        )
    return model


def _checked_objects(
    config: dict[str, Any],
    custom_objects: CustomObjects,
    num_bytes: int,
    num_variables: int | None = None,
) -> dict[str, Any]:
    """Returns the registered and custom objects that a text refers to, if it is safe."""
    objects = dict(custom_objects or {})
    problem = (
        work_problem(config, num_bytes)
        or _problem(config, objects, _library_of(config))
        or graph_problem(config)
    )
    if not problem and not objects and num_variables is not None:
        problem = weights_problem(config, num_variables)
    _refuse(problem)
    return objects


def _parsed(text: bytes) -> dict[str, Any]:
    check_text(text)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CompressedFileError(
            f"The architecture is not readable ({type(error).__name__}). The file is "
            "damaged; copy or download it again."
        ) from error
    _refuse(None if isinstance(config, dict) else "no class")
    return dict(config)


def _refuse(problem: str | None) -> None:
    if problem:
        raise CompressedFileError(
            f"The architecture is not loaded, since it has {plain(problem)}. Do not use the "
            "file unless you know where that comes from."
        )


def _problem(config: Any, objects: dict[str, Any], library: Library) -> str | None:
    """Names a part of a configuration that is not safe to load, or returns `None`.

    Adds the registered and custom classes that it meets to `objects`.
    """
    named = (part for part in dicts_in(config) if part.get("class_name") is not None)
    problems = (_class_problem(part, objects, library) for part in named)
    return next(filter(None, problems), None)


def _class_problem(
    part: dict[str, Any], objects: dict[str, Any], library: Library
) -> str | None:
    problem = code_problem(part)
    if problem or part["class_name"] in PLAIN:
        return problem
    is_function = part["class_name"] == "function"
    key = part.get("config") if is_function else part.get("registered_name", part["class_name"])
    if isinstance(key, str):
        found = objects.get(key) or library.saving.get_registered_object(key)
        if isinstance(found, type) and issubclass(found, Wrapped):
            return f"{key!r}: call strip_soft_weight_sharing, and store the model that it gives"
        if key in objects or not _is_of(library, found):
            objects[key] = found
            return None
    return name_problem(part, library.package)


def _is_of(library: Library, found: Any) -> bool:
    """Whether nothing is registered, or a class of the library or of this package."""
    package = str(getattr(found, "__module__", library.package)).partition(".")[0]
    return found is None or package in (library.package, __package__.partition(".")[0])
