"""Collects the user's own classes and functions that a model's configuration names."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from tfmot_sws.models.libraries import library_of, walk


def own_objects(model: Any) -> dict[str, Any]:
    """Classes and functions by name, of whatever module but the library's own.

    The model is in memory already, so they may be taken as they are, registered or not:
    those of layers, and of what layers hold, such as activations and initializers.

    Args:
        model: of either library.
    """
    package = library_of(model).package
    found: dict[str, Any] = {}
    for layer in walk(model):
        for part in (layer, *_held(vars(layer))):
            thing = part if isinstance(part, types.FunctionType) else type(part)
            # Not Keras' own, which has a layer and an operation of the name Add, and more
            # such pairs.
            if (thing.__module__ or "").split(".")[0] not in (package, "builtins"):
                found[thing.__name__] = thing
    return found


def _held(held: Any) -> Iterator[Any]:
    """Functions, and objects with a configuration, also in lists and dicts."""
    if isinstance(held, dict):
        for value in held.values():
            yield from _held(value)
    elif isinstance(held, list | tuple):
        for value in held:
            yield from _held(value)
    elif isinstance(held, types.FunctionType) or hasattr(held, "get_config"):
        yield held
