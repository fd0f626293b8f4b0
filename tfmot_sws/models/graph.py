"""Reads from a model's configuration which layer feeds which.

A tensor is named [layer, node, tensor]. Keras 2 adds the arguments of the call as a fourth
entry, a dict; Keras 3 has them beside all tensors of the call.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tfmot_sws.models.libraries import library_of

_REFERENCE: Final = 3


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose configuration says what feeds what."""
    library = library_of(layer)
    if not isinstance(layer, library.model) or not layer.built:
        return False
    if isinstance(layer, library.sequential):
        return True
    try:
        config = layer.get_config()
    except NotImplementedError:
        return False
    return "output_layers" in config and bool(config.get("layers"))


def edges(model: Any) -> Iterator[tuple[str, str]]:
    """Pairs of layers by name: the first feeds only the second, and each is called once."""
    if isinstance(model, library_of(model).sequential):
        yield from itertools.pairwise(layer.name for layer in model.layers)
        return
    config = model.get_config()
    entries = config["layers"]
    nodes = {entry["name"]: entry["inbound_nodes"] for entry in entries}
    readers = Counter(_references([nodes, config["output_layers"]]))
    for name, calls in nodes.items():
        sources = list(_references(calls))
        once = len(calls) == len(sources) == 1 == readers[sources[0]]
        if once and len(nodes[sources[0]]) == 1 and _is_plain(calls[0]):
            yield sources[0], name


def in_training_mode(config: dict[str, Any]) -> set[str]:
    """Names of the layers that a graph calls with training=True, or in a mode unknown."""
    return {
        entry["name"]
        for entry in config["layers"]
        if "output_layers" in config
        and any(
            kwargs.get("training")
            for call in entry["inbound_nodes"]
            for kwargs in _kwargs(call)
        )
    }


def _is_plain(call: Any) -> bool:
    """Whether a layer is called for inference, not with training=True or a mask."""
    return not any(value for kwargs in _kwargs(call) for value in kwargs.values())


def _kwargs(call: Any) -> Iterator[dict[str, Any]]:
    """The keywords of a call, which tf_keras keeps beside each of its tensors."""
    if isinstance(call, dict):
        yield call.get("kwargs") or {}
        return
    tensors = [call] if _is_reference(call) else call
    yield from (tensor[3] for tensor in tensors if len(tensor) > _REFERENCE)


def _references(value: Any) -> Iterator[str]:
    """Names of the layers whose outputs are read, as often as they are."""
    if _is_reference(value):
        yield value[0]
        yield from _references(value[3:])
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def _is_reference(value: Any) -> bool:
    """Whether this is [layer, node, tensor], as configurations name a tensor.

    tf_keras adds the keywords of the call.
    """
    if not isinstance(value, list | tuple) or len(value) not in (_REFERENCE, _REFERENCE + 1):
        return False
    number_parts = all(type(part) is int for part in value[1:_REFERENCE])
    rest = value[_REFERENCE:]
    return isinstance(value[0], str) and number_parts and all(isinstance(r, dict) for r in rest)


def rewire(value: Any, renamed: dict[str, str]) -> Any:
    """References to a folded BatchNorm turned to the layer before it."""
    if _is_reference(value):
        arguments = [rewire(part, renamed) for part in value[3:]]
        return [renamed.get(value[0], value[0]), *value[1:3], *arguments]
    if isinstance(value, dict):
        return {key: rewire(item, renamed) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rewire(item, renamed) for item in value)
    return value
