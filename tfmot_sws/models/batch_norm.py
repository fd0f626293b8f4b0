"""Folds BatchNorm into the kernels before it, so that clusters survive conversion."""

from __future__ import annotations

import itertools
import warnings
from typing import Any, Final

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from tfmot_sws.models.codebook import is_clustered
from tfmot_sws.models.graph import edges, is_graph, rewire
from tfmot_sws.models.libraries import check_model, is_tf_keras
from tfmot_sws.models.rebuild import clone_with

# How the factor of each output channel is shaped to multiply the layer's last kernel.
_FACTOR_SHAPES: Final[dict[type, Any]] = {
    **dict.fromkeys(
        (
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
            layers.Dense,
            layers.SeparableConv1D,
            layers.SeparableConv2D,
        ),
        lambda factor, _: factor,
    ),
    # Transposed kernels end in (outputs, inputs).
    **dict.fromkeys(
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        lambda factor, _: factor[:, None],
    ),
    # Depthwise kernels end in (inputs, outputs of each).
    **dict.fromkeys(
        (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
        lambda factor, kernel: factor.reshape(kernel.shape[-2:]),
    ),
}

# By the layer's identity, the BatchNorm that is folded into it.
Folds = dict[int, layers.BatchNormalization]


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """The same model without those BatchNorm layers that directly follow a kernel.

    Use it on the pretrained model before `apply_soft_weight_sharing`. LiteRT's converter
    folds BatchNorm by itself, but after training, and then gives each channel values of
    its own: clusters are lost. With the layer's kernel w and bias b, per output channel:

        a = gamma / sqrt(variance + epsilon),   w <- a w,   b <- a (b - mean) + beta

    Args:
        model: a built Functional or Sequential model; models of these kinds inside it are
            treated too. Folded are Dense, Conv, DepthwiseConv, SeparableConv and
            Conv...Transpose layers without activation whose output feeds nothing but the
            BatchNorm. Every other BatchNorm stays.

    Returns:
        A new uncompiled model with the same predictions, up to rounding. Layers that
        received a BatchNorm have a bias.

    Raises:
        TypeError: the model is of tf_keras.
        ValueError: the model is subclassed, so that nothing tells what its layers feed,
            or it cannot be rebuilt from its configuration.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3),
        ...                           keras.layers.BatchNormalization()])
        >>> [type(layer).__name__ for layer in fold_batch_norm(model).layers]
        ['Dense']
    """
    check_model(model)
    if is_tf_keras(model):
        raise TypeError(
            f"fold_batch_norm takes Keras 3 models; received '{model.name}' of tf_keras. Build "
            "the model with `import keras` and copy its weights, or share it as it is: zeros "
            "stay zero, and weights='int8' keeps the clusters behind BatchNorm."
        )
    if not is_graph(model):
        raise ValueError(
            f"fold_batch_norm needs a Functional or Sequential model; received "
            f"'{model.name}' ({type(model).__name__}), which is subclassed or not built. Fold "
            "its Functional parts one by one, or leave out BatchNorm where kernels are shared."
        )
    folds = {id(layer): norm for layer, norm in foldable(model)}
    folded = clone_with(model, lambda config: _without_norms(config, model, folds))
    _copy_weights(model, folded, folds)
    return folded


def foldable(
    model: keras.Model,
) -> list[tuple[layers.Layer, layers.BatchNormalization]]:
    """Layers with kernels and the BatchNorm that directly follows, inner models included.

    Subclassed models give none: nothing tells what their layers feed.
    """
    if not is_graph(model):
        return []
    # Operations such as `+` are in the configuration, but are no layers.
    by_name = {layer.name: layer for layer in model.layers}
    pairs = [(by_name.get(a), by_name.get(b)) for a, b in edges(model.get_config())]
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
        if any(is_clustered(ops.convert_to_numpy(v)) for v in layer.weights if len(v.shape) > 1)
    )
    if names:
        warnings.warn(
            f"BatchNorm layers {names} directly follow clustered kernels. In a file of "
            f"format '{weights}' they are folded into these kernels, each channel is scaled "
            "by a factor of its own, and few equal values are left (zeros stay). Call "
            "fold_batch_norm(model) before apply_soft_weight_sharing; the formats 'int8' and "
            "'int8_codebook' keep the clusters even so.",
            UserWarning,
            stacklevel=3,
        )


def _fits(layer: layers.Layer | None, norm: layers.Layer | None) -> bool:
    if norm is None or type(norm) is not layers.BatchNormalization:
        return False
    if type(layer) not in _FACTOR_SHAPES:
        return False
    if getattr(layer, "activation", None) is not keras.activations.linear:
        return False
    rank = len(norm.get_build_config()["input_shape"])
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return norm.axis % rank == (1 if first else rank - 1)


def _without_norms(config: Any, model: keras.Model, folds: Folds) -> Any:
    """A serialised model in which folded layers have a bias and their BatchNorm is gone."""
    by_name = {layer.name: layer for layer in model.layers}
    renamed = {
        folds[id(layer)].name: name for name, layer in by_name.items() if id(layer) in folds
    }
    # The input of a Sequential model is no layer of it.
    entries = [
        _edit_layer(entry, by_name.get(entry["config"]["name"]), folds)
        for entry in config["config"]["layers"]
        if entry["config"]["name"] not in renamed
    ]
    inner = {**config["config"], "layers": entries}
    wires = [inner, *entries]
    for part, key in itertools.product(wires, ("inbound_nodes", "output_layers")):
        if key in part:
            part[key] = rewire(part[key], renamed)
    return {**config, "config": inner}


def _edit_layer(entry: Any, layer: layers.Layer | None, folds: Folds) -> Any:
    if is_graph(layer):
        return _without_norms(entry, layer, folds)
    if id(layer) in folds:
        return {**entry, "config": {**entry["config"], "use_bias": True}}
    return dict(entry)


def _copy_weights(source: keras.Model, target: keras.Model, folds: Folds) -> None:
    by_name = {layer.name: layer for layer in source.layers}
    for layer in target.layers:
        original = by_name[layer.name]
        if is_graph(original):
            _copy_weights(original, layer, folds)
        elif id(original) in folds:
            layer.set_weights(_fold(original, folds[id(original)]))
        else:
            layer.set_weights(original.get_weights())


def _fold(layer: layers.Layer, norm: layers.BatchNormalization) -> list[NDArray]:
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
    kernel = kernel * _FACTOR_SHAPES[type(layer)](factor, kernel)
    shift = factor * (bias - values(norm.moving_mean, 0)) + values(norm.beta, 0)
    return [*front, kernel, shift]
