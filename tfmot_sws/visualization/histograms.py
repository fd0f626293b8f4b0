"""Plots histograms of the weights of one model or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np

from tfmot_sws.arguments import check_flags, check_integer
from tfmot_sws.visualization.checks import check_canvas
from tfmot_sws.visualization.style import SERIES, new_figure, tidy
from tfmot_sws.visualization.weights import Array, Weights, align, as_arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SCALES = ("linear", "log")


_MAX_BINS: Final = 1 << 20


def plot_weight_histogram(
    models: keras.Model | Mapping[str, Weights],
    *,
    per_layer: bool = False,
    bins: int = 201,
    figure: Figure | None = None,
) -> Figure:
    """Plots histograms of the weights of models, on a linear and a log scale.

    The linear scale shows the bulk of the weights, the log scale the rare ones. Both show
    the peak at zero.

    Args:
        models: a model, or a mapping from names in the legend to models, such as
            `{"before": weights, "after": small}`. In a mapping, the value of
            `read_weights` or an array may replace a model.
        per_layer: draw one row per variable, instead of one for all weights together.
        bins: number of bins, >= 1; an odd number puts zero in the middle of a bin.
        figure: an empty figure or subfigure to draw on; `None`: a new figure.

    Returns:
        The figure, with linear axes on the left and logarithmic axes on the right.

    Raises:
        ImportError: matplotlib is missing.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> figure = plot_weight_histogram({"before": [0.1, 0.2, 0.3], "after": [0, 0, 0.3]})
        >>> [ax.get_yscale() for ax in figure.axes]
        ['linear', 'log']
    """
    check_flags(per_layer=per_layer)
    check_integer("bins", bins, 1, _MAX_BINS)
    check_canvas("figure", figure, "subplots")
    rows = _rows(_named(models), per_layer)
    if figure is None:
        figure = new_figure(9, max(3.2, 1.6 * len(rows)))
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (title, series), pair in zip(rows.items(), axes, strict=True):
        edges = _edges(list(series.values()), bins)
        for ax, scale in zip(pair, _SCALES, strict=True):
            _draw(ax, series, edges, scale)
        pair[0].set_title(title, loc="left", fontsize="medium")
    for ax in axes[-1]:
        ax.set_xlabel("weight")
    if len(axes[0, 1].get_legend_handles_labels()[1]) > 1:
        axes[0, 1].legend(frameon=False)
    return figure


def _named(models: Any) -> dict[str, dict[str, Array]]:
    """Returns, by name in the legend, flat arrays by variable path."""
    named = models if isinstance(models, Mapping) else {"weights": models}
    arrays = {name: as_arrays(weights) for name, weights in named.items()}
    if not arrays:
        raise ValueError("models is an empty mapping; a name with a model is expected.")
    first = next(iter(arrays.values()))
    return {name: align(first, parts) for name, parts in arrays.items()}


def _rows(named: dict[str, dict[str, Array]], per_layer: bool) -> dict[str, dict[str, Array]]:
    """Returns, by title of the row, arrays by name in the legend."""
    if not per_layer:
        joined = {name: np.concatenate(list(parts.values())) for name, parts in named.items()}
        size = max(array.size for array in joined.values())
        return {f"{size:,} weights": joined}
    paths = dict.fromkeys(path for parts in named.values() for path in parts)
    return {
        path: {name: parts[path] for name, parts in named.items() if path in parts}
        for path in paths
    }


def _edges(arrays: list[Array], bins: int) -> Array:
    """Returns edges of bins that are symmetric around zero and hold every weight."""
    limit = max((float(np.abs(array).max(initial=0.0)) for array in arrays), default=0.0) or 1.0
    return np.linspace(-limit, limit, bins + 1, dtype=np.float32)


def _draw(ax: Axes, series: dict[str, Array], edges: Array, scale: str) -> None:
    for (name, values), colour in zip(series.items(), SERIES * len(series), strict=False):
        counts, _ = np.histogram(values, edges)
        ax.stairs(counts, edges, color=colour, fill=True, alpha=0.15)
        ax.stairs(counts, edges, color=colour, label=name)
    ax.set_yscale(scale)
    if scale == "log":
        ax.set_ylim(bottom=0.7)
    ax.set_ylabel("weights per bin")
    tidy(ax)
