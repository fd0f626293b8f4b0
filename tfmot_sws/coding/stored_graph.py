"""Checks the graphs of functional models in a stored architecture before Keras follows them.

Keras calls a layer whose inputs are all constants at once, on real numbers, whatever the
size of the result. And it passes over a graph until all calls are made: many times where
they stand in the wrong order, and in tf_keras for ever where an input never comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tfmot_sws.models.rebuild import dicts_in

# Layers that Keras visits on its passes over a graph, a microsecond each.
_MAX_VISITS: Final = 1 << 18
_CONSTANT: Final = "_CONSTANT_VALUE"


class _Output(NamedTuple):
    """An output of a layer: the name of the layer, and the number of its call."""

    layer: str
    call: int


def graph_problem(config: Any) -> str | None:
    """Names what is wrong with a functional model in a configuration, or returns `None`."""
    graphs = (part["layers"] for part in dicts_in(config) if _is_graph(part))
    try:
        return next(filter(None, map(_problem, graphs)), None)
    except (AttributeError, KeyError, TypeError, ValueError):
        return "a graph of layers that is not readable"


def _is_graph(part: dict[str, Any]) -> bool:
    layers = part.get("layers")
    return isinstance(layers, list) and any(
        isinstance(layer, dict) and "inbound_nodes" in layer for layer in layers
    )


def _problem(layers: list[dict[str, Any]]) -> str | None:
    calls = {layer["name"]: list(map(_inputs, layer["inbound_nodes"])) for layer in layers}
    if len(calls) < len(layers):
        return "two layers of one name"
    if not all(inputs for of_layer in calls.values() for inputs in of_layer):
        return "a layer that is called on constants alone, which Keras would compute at once"
    return _order_problem(calls, {layer["name"]: _num_ready(layer) for layer in layers})


def _order_problem(waiting: dict[str, list[list[_Output]]], made: dict[str, int]) -> str | None:
    """Makes all calls as Keras does, pass by pass; `made` counts the outputs of each layer."""
    visits = 0
    while any(waiting.values()):
        before = sum(made.values())
        for name, calls in waiting.items():
            while calls and all(made[source.layer] > source.call for source in calls[0]):
                calls.pop(0)
                made[name] += 1
        visits += len(waiting)
        if sum(made.values()) == before:
            return "a graph with a call whose inputs never come"
        if visits > _MAX_VISITS:
            return f"a graph of {len(waiting)} layers in an order that takes Keras too long"
    return None


def _num_ready(layer: dict[str, Any]) -> int:
    """The number of outputs that a layer has before its first call in this graph.

    An input layer has one. So has a model that knows its inputs, in tf_keras. Keras 3 does
    not count it, and notices by itself where an input never comes.
    """
    if layer.get("class_name") == "InputLayer":
        return 1
    config = layer.get("config")
    inner = config.get("layers") if isinstance(config, dict) else None
    if isinstance(inner, list) and inner and isinstance(inner[0], dict):
        return int(inner[0].get("class_name") == "InputLayer")
    is_known = str(layer.get("module")).partition(".")[0] in ("keras", "tf_keras")
    return int(not is_known)


def _inputs(call: Any) -> list[_Output]:
    """Returns the outputs of layers that a call takes, in the notation of either library."""
    if isinstance(call, dict):
        histories = (
            part["config"]["keras_history"]
            for part in dicts_in(call)
            if part.get("class_name") == "__keras_tensor__"
        )
        return [_Output(name, int(number)) for name, number, _ in histories]
    return list(_listed_inputs(call))


def _listed_inputs(value: Any) -> Iterator[_Output]:
    """Finds [layer, call, output] and [layer, call, output, arguments] in nested lists."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return
    if len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int):
        if value[0] != _CONSTANT:
            yield _Output(value[0], value[1])
        value = value[3:]
    for item in value:
        yield from _listed_inputs(item)
