"""Plots how each tensor under soft weight-sharing is treated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from tfmot_sws.training.sharing_report import SharedTensor, sharing_report
from tfmot_sws.visualization.style import BLUE, GREEN, ORANGE, ZERO, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_layers(model: keras.Model) -> Figure:
    """Plots bits, zeros, assignment width and sensitivity of every shared tensor.

    Each row is a tensor. The more sensitive the error is to a tensor, the narrower is its
    assignment width; the wider that is, the more of its weights become zero, and the fewer
    bits a weight takes.

    Args:
        model: from `apply_soft_weight_sharing`, before, during or after its training.

    Returns:
        A new figure with four axes, from left to right as above.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: the model is not wrapped.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from tfmot_sws.training.apply import apply_soft_weight_sharing
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> figure = plot_layers(apply_soft_weight_sharing(dense))
        >>> [ax.get_xlabel() for ax in figure.axes][:2]
        ['bits a weight', 'zeros (%)']
    """
    tensors = sharing_report(model).tensors
    figure = new_figure(11, 1.2 + 0.32 * len(tensors))
    panels = figure.subplots(1, 4, sharey=True)
    _draw(panels[0], [t.bits for t in tensors], "bits a weight", BLUE, "%.2f")
    _draw(panels[1], [100 * t.zeros / t.size for t in tensors], "zeros (%)", ZERO, "%.1f")
    _draw(panels[2], [t.width / t.scale for t in tensors], "width (of scale)", GREEN, "%.2f")
    _draw_sensitivities(panels[3], tensors)
    panels[0].set_yticks(range(len(tensors)), [t.path for t in tensors])
    panels[0].set_ylim(len(tensors) - 0.5, -0.5)
    return figure


def _draw(ax: Axes, values: list[float], label: str, colour: str, text: str) -> None:
    bars = ax.barh(range(len(values)), values, height=0.6, color=colour, alpha=0.75)
    ax.bar_label(bars, fmt=text, padding=3, fontsize="small")
    ax.set(xlabel=label, xlim=(0, 1.3 * max(*values, 1e-30)))
    tidy(ax, axis="x")


def _draw_sensitivities(ax: Axes, tensors: tuple[SharedTensor, ...]) -> None:
    """Draws discs, because a bar on a logarithmic axis has no foot."""
    rows = [row for row, t in enumerate(tensors) if t.sensitivity > 0]
    values = np.array([tensors[row].sensitivity for row in rows])
    ax.scatter(values, rows, color=ORANGE, edgecolors="0.3", linewidths=0.5, zorder=2)
    ax.set_xlabel("sensitivity")
    if rows:
        ax.set_xscale("log")
    tidy(ax, axis="x")
