"""Paths of variables that tell apart layers of the same name in different models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tfmot_sws.models.libraries import is_tf_keras, native, view_of


def paths_of(model: Any) -> dict[int, str]:
    """The path of each of a model's variables, by the `id` of the library's variable.

    The models within the model that hold a variable stand in front of what the library calls
    its path, unless they are in it: "user/dense/kernel" and "item/dense/kernel".

    Args:
        model: of either library, or a layer.
    """
    variables = view_of(model).variables
    paths = [variable.path for variable in variables]
    ids = [id(native(variable)) for variable in variables]
    if not is_tf_keras(model):
        paths = full_paths(model, ids, paths)
    return dict(zip(ids, paths, strict=True))


def full_paths(model: Any, ids: Sequence[int], paths: Sequence[str]) -> list[str]:
    """Paths with the models within the model in front; doubles get a number.

    Args:
        model: a model or layer.
        ids: of its variables.
        paths: as the library gives them.
    """
    holders = _holders(model, ())
    full = []
    for ident, path in zip(ids, paths, strict=True):
        missing = [name for name in holders.get(ident, ()) if name not in path.split("/")]
        full.append("/".join([*missing, path]))
    return _numbered(full)


def _holders(model: Any, names: tuple[str, ...]) -> dict[int, tuple[str, ...]]:
    """The names of the inner models around each variable; the first place of it counts."""
    found: dict[int, tuple[str, ...]] = {}
    for layer in getattr(model, "layers", ()):
        if hasattr(layer, "layers"):
            of_layer = (*names, layer.name)
            inner = {id(v): of_layer for v in layer.weights} | _holders(layer, of_layer)
            found = inner | found
    return found


def _numbered(paths: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    numbered = []
    for path in paths:
        numbered.append(f"{seen[path]}/{path}" if seen[path] else path)
        seen[path] += 1
    return numbered
