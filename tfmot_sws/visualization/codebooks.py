"""Plots the codebooks of a stripped model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from tfmot_sws.models.codebook import ClusteredTensor, get_codebooks
from tfmot_sws.visualization.checks import check_canvas
from tfmot_sws.visualization.style import ZERO, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

_USAGE = "cividis_r"


def plot_codebook(model: keras.Model, *, ax: Axes | None = None) -> Axes:
    """Plots the values, their usage, and the share of zeros of every clustered tensor.

    Each row is a tensor and each mark is one of its values; a mark is darker the more
    weights have that value. Zero is a diamond. The bars on the right show the share of
    zeros. Tensors of a single value, such as biases that are all zero, are left out unless
    there are no others.

    Args:
        model: a stripped model.
        ax: axes to draw on; they shrink to make room for the bars and the colour scale.
            `None`: new axes.

    Returns:
        The axes of the values; `child_axes` holds the axes of the bars and of the colour
        scale.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the model is still wrapped.
        ValueError: none of its tensors is clustered.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> head = keras.layers.Dense(3, kernel_initializer="ones", name="head")
        >>> model = keras.Sequential([keras.Input((4,)), head])
        >>> ax = plot_codebook(model)
        >>> ax.get_yticklabels()[0].get_text().partition("/")[2]
        'head/kernel'
    """
    check_canvas("ax", ax, "scatter")
    every = get_codebooks(model)
    codebooks = {p: c for p, c in every.items() if c.codebook.size > 1} or every
    if not codebooks:
        raise ValueError(
            f"Model '{model.name}' has no clustered tensor, so there is no codebook to show. "
            "Pass a model returned by strip_soft_weight_sharing."
        )
    ax = ax if ax is not None else new_axes(9, 1.6 + 0.38 * len(codebooks))
    marks = _draw_values(ax, list(codebooks.values()))
    ax.set_yticks(range(len(codebooks)), list(codebooks))
    ax.set_ylim(len(codebooks) - 0.5, -0.5)
    ax.set_xlabel("value of the weights")
    tidy(ax)
    _draw_zeros(ax, list(codebooks.values()))
    scale = ax.inset_axes((0, 1.04, 1, 0.3 / _height_inches(ax)))
    ax.figure.colorbar(
        marks,
        cax=scale,
        orientation="horizontal",
        ticklocation="top",
        label="share of the tensor's weights",
    )
    return ax


def _draw_values(ax: Axes, tensors: list[ClusteredTensor]) -> PathCollection:
    """Draws one mark per value: a diamond for zero, a disc for any other."""
    from matplotlib.colors import LogNorm

    values = np.concatenate([t.codebook for t in tensors])
    rows = np.repeat(np.arange(len(tensors)), [t.codebook.size for t in tensors])
    usage = np.concatenate([t.counts / t.indices.size for t in tensors])
    norm = LogNorm(min(float(usage.min()), 0.1), 1.0)
    for chosen, marker in ((values == 0, "D"), (values != 0, "o")):
        marks = ax.scatter(
            values[chosen],
            rows[chosen],
            c=usage[chosen],
            marker=marker,
            s=36,
            cmap=_USAGE,
            norm=norm,
            edgecolors="0.3",
            linewidths=0.5,
        )
    return marks


def _draw_zeros(ax: Axes, tensors: list[ClusteredTensor]) -> None:
    panel = ax.inset_axes((1.03, 0, 0.22, 1), sharey=ax)
    shares = [100 * t.num_zeros / t.indices.size for t in tensors]
    bars = panel.barh(range(len(tensors)), shares, height=0.6, color=ZERO, alpha=0.7)
    panel.bar_label(bars, fmt="%.1f", padding=3, fontsize="small")
    panel.set(xlim=(0, 155), xticks=(0, 50, 100), xlabel="zeros (%)")
    panel.tick_params(labelleft=False)
    tidy(panel, axis="x")


def _height_inches(ax: Axes) -> float:
    box = ax.get_window_extent()
    return float(box.height / ax.figure.dpi)
