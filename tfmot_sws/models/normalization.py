"""Finds BatchNorm layers whose four vectors can be two, without a change of the outputs.

At inference BatchNorm computes a·x + b: two vectors tell all that its four do, and a bias in
front of it is part of b. That holds only where every call of the layer uses the moving
statistics, so it must be known how the layer is called.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tfmot_sws.models.graph import edges, in_training_mode, is_graph
from tfmot_sws.models.libraries import library_of

_VECTORS: Final = ("gamma", "beta", "moving_mean", "moving_variance")
_BATCH_NORM: Final = "BatchNormalization"
# Layers that add their bias, one number a channel, last of all.
_WITH_BIAS: Final = (
    "Dense",
    *(f"{kind}{rank}D" for kind in ("Conv", "DepthwiseConv") for rank in (1, 2, 3)),
    *(f"Conv{rank}DTranspose" for rank in (1, 2, 3)),
)


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """A BatchNorm layer that nothing calls in training mode when the model predicts.

    Args:
        layer: of Keras 3 or tf_keras.
        bias: variable of the layer in front, if its output feeds nothing else.
    """

    layer: Any
    bias: Any = None

    @property
    def vectors(self) -> dict[str, Any]:
        """Its own variables and the bias by name; `None` for what it has not."""
        return {**{name: getattr(self.layer, name) for name in _VECTORS}, "bias": self.bias}

    @property
    def own_variables(self) -> list[Any]:
        """Those of the layer itself."""
        return [v for v in (getattr(self.layer, name) for name in _VECTORS) if v is not None]


def batch_norms(model: Any) -> list[BatchNorm]:
    """The BatchNorm layers of a model, with the models inside, that may be two vectors.

    A subclassed model gives none: its code may call a layer in training mode. Neither does
    a graph that calls any layer so: in Keras 3 the layers after it then train as well.
    """
    found = list(_in_graph(model))
    if any(is_trained for *_, is_trained in found):
        return []
    times = Counter(id(layer) for layer, *_ in found)
    return [
        BatchNorm(layer, _bias_of(front, layer) if times[id(front)] == 1 else None)
        for layer, front, _ in found
        if _is_batch_norm(layer) and times[id(layer)] == 1
    ]


def _in_graph(model: Any) -> Iterator[tuple[Any, Any, bool]]:
    """Every layer of a graph, the models inside included.

    Yields:
        The layer, the one that feeds only it, and whether it is called in training mode.
    """
    if not is_graph(model) or not _calls_as_built(model):
        return
    config = model.get_config()
    by_name = {layer.name: layer for layer in model.layers}
    fronts = {after: by_name.get(before) for before, after in edges(model)}
    trained = in_training_mode(config)
    for name, layer in by_name.items():
        yield layer, fronts.get(name), name in trained
        yield from _in_graph(layer)


def _calls_as_built(model: Any) -> bool:
    """Whether the model's `call` is that of its library, which runs the graph."""
    return _package(type(model).call) == library_of(model).package


def _is_batch_norm(layer: Any) -> bool:
    """Whether a layer is the library's own BatchNorm, built, and of the plain kind."""
    return (
        type(layer).__name__ == _BATCH_NORM
        and _package(type(layer)) == library_of(layer).package
        and layer.built
        and not getattr(layer, "renorm", False)
    )


def _package(thing: Any) -> str:
    return str(thing.__module__).partition(".")[0]


def _bias_of(front: Any, norm: Any) -> Any:
    """The bias of a layer, if BatchNorm treats each of its numbers as a channel."""
    if type(front).__name__ not in _WITH_BIAS or _package(type(front)) != _package(type(norm)):
        return None
    if getattr(front.activation, "__name__", "") != "linear" or not front.use_bias:
        return None
    rank = len(norm.get_build_config()["input_shape"])
    first = getattr(front, "data_format", "channels_last") == "channels_first"
    axes = norm.axis if isinstance(norm.axis, list | tuple) else [norm.axis]
    fits = [axis % rank for axis in axes] == [1 if first else rank - 1]
    return front.bias if fits else None
