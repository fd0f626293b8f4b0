"""Folds BatchNorm into the kernels before it, so that clusters survive conversion."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.advice import warn
from tfmot_sws.models.codebook import is_clustered
from tfmot_sws.models.graph import edges, is_graph, rewire
from tfmot_sws.models.libraries import check_model, library_of, view_of
from tfmot_sws.models.rebuild import clone_with, finalize
from tfmot_sws.models.wrapped import check_plain

# By the class's name, how the factor of each output channel is shaped to multiply the layer's
# last kernel.
_FACTOR_SHAPES: Final[dict[str, Any]] = {
    **dict.fromkeys(
        ("Conv1D", "Conv2D", "Conv3D", "Dense", "SeparableConv1D", "SeparableConv2D"),
        lambda factor, _: factor,
    ),
    # Transposed kernels end in (outputs, inputs).
    **dict.fromkeys(
        ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
        lambda factor, _: factor[:, None],
    ),
    # Depthwise kernels end in (inputs, outputs of each).
    **dict.fromkeys(
        ("DepthwiseConv1D", "DepthwiseConv2D"),
        lambda factor, kernel: factor.reshape(kernel.shape[-2:]),
    ),
}

# By the layer's identity, the BatchNorm that is folded into it.
Folds = dict[int, Any]


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """The same model without those BatchNorm layers that directly follow a kernel.

    Use it on the pretrained model before `apply_soft_weight_sharing`. LiteRT's converter
    folds BatchNorm by itself, but after training, and then gives each channel values of
    its own: clusters are lost. With the layer's kernel w and bias b, per output channel:

        a = gamma / sqrt(variance + epsilon),   w <- a w,   b <- a (b - mean) + beta

    Args:
        model: a built Functional or Sequential model of Keras 3 or tf_keras; models of
            these kinds inside it are treated too. Folded are Dense, Conv, DepthwiseConv,
            SeparableConv and Conv...Transpose layers without activation whose output
            feeds nothing but the BatchNorm. Every other BatchNorm stays.

    Returns:
        A new uncompiled model with the same predictions, up to rounding. Layers that
        received a BatchNorm have a bias.

    Raises:
        TypeError: the model, or one that it holds, is under soft weight-sharing.
        ValueError: the model is subclassed, so that nothing tells what its layers feed,
            or it cannot be rebuilt from its configuration.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3),
        ...                           keras.layers.BatchNormalization()])
        >>> [type(layer).__name__ for layer in fold_batch_norm(model).layers]
        ['Dense']
    """
    check_model(model)
    check_plain(model)
    if not is_graph(model):
        raise ValueError(
            f"fold_batch_norm needs a Functional or Sequential model; received "
            f"'{model.name}' ({type(model).__name__}), which is subclassed or not built. Fold "
            "its Functional parts one by one, or leave out BatchNorm where kernels are shared."
        )
    folds = {id(layer): norm for layer, norm in foldable(model)}
    folded = clone_with(model, lambda config: _without_norms(config, model, folds))
    _copy_weights(model, folded, folds)
    finalize(folded)
    return folded


def foldable(
    model: keras.Model,
) -> list[tuple[Any, Any]]:
    """Layers with kernels and the BatchNorm that directly follows, inner models included.

    Subclassed models give none: nothing tells what their layers feed.
    """
    if not is_graph(model):
        return []
    # Operations such as `+` are in the configuration, but are no layers.
    by_name = {layer.name: layer for layer in model.layers}
    pairs = [(by_name.get(a), by_name.get(b)) for a, b in edges(model)]
    found = [pair for pair in pairs if _fits(*pair)]
    for layer in model.layers:
        found += foldable(layer)
    return found


def warn_of_lost_clusters(model: keras.Model, weights: str) -> None:
    """Warns when the converter will fold BatchNorm into clustered kernels.

    Args:
        model: the model about to be converted.
        weights: the format.
    """
    names = sorted(
        norm.name
        for layer, norm in foldable(model)
        if any(_is_clustered_kernel(variable) for variable in view_of(layer).weights)
    )
    if names:
        warn(
            f"BatchNorm layers {names} directly follow clustered kernels. In a file of "
            f"format '{weights}' they are folded into these kernels, each channel is scaled "
            "by a factor of its own, and few equal values are left (zeros stay). Call "
            "fold_batch_norm(model) before apply_soft_weight_sharing; the formats 'int8' and "
            "'int8_codebook' keep the clusters even so.",
        )


def _is_clustered_kernel(variable: Any) -> bool:
    return len(variable.shape) > 1 and is_clustered(ops.convert_to_numpy(variable))


def _fits(layer: Any, norm: Any) -> bool:
    if _name_in_keras(norm) != "BatchNormalization":
        return False
    if _name_in_keras(layer) not in _FACTOR_SHAPES or not _is_linear(layer):
        return False
    rank = len(norm.get_build_config()["input_shape"])
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    # In tf_keras, the axis is a list.
    (axis,) = np.atleast_1d(norm.axis)
    return int(axis) % rank == (1 if first else rank - 1)


def _name_in_keras(thing: Any) -> str | None:
    """Name of a layer's class if that is a class of its library itself, not of a user."""
    if type(thing).__module__.split(".")[0] != library_of(thing).package:
        return None
    return type(thing).__name__


def _is_linear(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    package = str(getattr(activation, "__module__", "")).split(".")[0]
    name = getattr(activation, "__name__", None)
    return (package, name) == (library_of(layer).package, "linear")


def _without_norms(config: Any, model: keras.Model, folds: Folds) -> Any:
    """A serialised model in which folded layers have a bias and their BatchNorm is gone."""
    by_name = {layer.name: layer for layer in model.layers}
    renamed = {
        folds[id(layer)].name: name for name, layer in by_name.items() if id(layer) in folds
    }
    described = config["config"]["layers"]
    entries = [
        _edit_layer(entry, by_name.get(name), folds)
        for entry, name in zip(described, _names(described, model), strict=True)
        if name not in renamed
    ]
    inner = {**config["config"], "layers": entries}
    wires = [inner, *entries]
    for part, key in itertools.product(wires, ("inbound_nodes", "output_layers")):
        if key in part:
            part[key] = rewire(part[key], renamed)
    return {**config, "config": inner}


def _names(described: list[Any], model: keras.Model) -> list[str | None]:
    """The name of each layer in a configuration; those of the user's own may leave it out."""
    if not isinstance(model, library_of(model).sequential):
        return [entry["name"] for entry in described]
    # The input of a Sequential model is no layer of it.
    inputs = len(described) - len(model.layers)
    return [None] * inputs + [layer.name for layer in model.layers]


def _edit_layer(entry: Any, layer: Any | None, folds: Folds) -> Any:
    if is_graph(layer):
        return _without_norms(entry, layer, folds)
    if id(layer) in folds:
        return {**entry, "config": {**entry["config"], "use_bias": True}}
    return dict(entry)


def _copy_weights(source: keras.Model, target: keras.Model, folds: Folds) -> None:
    for original, layer in _pairs(source, target, folds):
        if is_graph(original):
            _copy_weights(original, layer, folds)
        elif id(original) in folds:
            layer.set_weights(_fold(original, folds[id(original)]))
        else:
            layer.set_weights(original.get_weights())


def _pairs(source: keras.Model, target: keras.Model, folds: Folds) -> Iterator[Any]:
    """Each layer of a model with its rebuilt one, by name where it has kept that."""
    norms = {id(norm) for norm in folds.values()}
    kept = {layer.name: layer for layer in source.layers if id(layer) not in norms}
    if isinstance(source, library_of(source).sequential):
        yield from zip(kept.values(), target.layers, strict=True)
        return
    names = {layer.name for layer in target.layers}
    renamed = (layer for name, layer in kept.items() if name not in names)
    for layer in target.layers:
        yield kept[layer.name] if layer.name in kept else next(renamed), layer


def _fold(layer: Any, norm: Any) -> list[NDArray]:
    """The weights of a layer that computes what it and its BatchNorm compute."""

    def values(variable: Any, default: float) -> NDArray[np.float64]:
        return np.asarray(
            default if variable is None else ops.convert_to_numpy(variable), float
        )

    *front, kernel, bias = (
        layer.get_weights() if layer.use_bias else [*layer.get_weights(), 0.0]
    )
    deviation = np.sqrt(values(norm.moving_variance, 1) + norm.epsilon)
    factor = values(norm.gamma, 1) / deviation
    kernel = kernel * _FACTOR_SHAPES[type(layer).__name__](factor, kernel)
    shift = factor * (bias - values(norm.moving_mean, 0)) + values(norm.beta, 0)
    return [*front, kernel, shift]
