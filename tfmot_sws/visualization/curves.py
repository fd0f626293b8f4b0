"""Plots the logs of a training, and error against file size of several models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from tfmot_sws.arguments import check_kind, check_numbers, floats
from tfmot_sws.visualization.checks import check_canvas
from tfmot_sws.visualization.style import SERIES, new_axes, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_MARKERS = "osD^v"


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One plot of logs over epochs.

    Args:
        title: its title.
        logs: names of the logs: the training's, the validation's, or both.
        factor: factor from the logs to the unit in the title.
        scale: scale of the y axis, as in matplotlib.
        integer: whether the y axis has ticks at integers only.
    """

    title: str
    logs: tuple[str, ...]
    factor: float = 1.0
    scale: str = "linear"
    integer: bool = False


_PANELS = (
    _Panel("error loss", ("error_loss", "val_loss"), scale="log"),
    _Panel("complexity loss", ("complexity_loss",)),
    _Panel("living components", ("num_components",), integer=True),
    _Panel("zeros (%)", ("zeros",), factor=100.0),
    _Panel("entropy (bits per weight)", ("bits_per_weight",)),
    _Panel("snap (0 to 1)", ("snap",)),
)


def plot_history(
    history: keras.callbacks.History | Mapping[str, Sequence[float]],
    *,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Plots the logs of a training under soft weight-sharing, each in a small plot.

    Shows losses, living components, zeros, bits per weight, every metric that the model
    was compiled with, and `snap` if it was logged.

    Args:
        history: the value that `fit` returned, or its `history`.
        figure: an empty figure or subfigure to draw on; `None`: a new figure.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the history has none of these logs.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> figure = plot_history({"zeros": [0.5, 0.9], "bits_per_weight": [2.0, 0.6]})
        >>> [ax.get_title() for ax in figure.axes]
        ['zeros (%)', 'entropy (bits per weight)']
    """
    logs: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    check_kind("history", logs, Mapping, "what fit returned, or a mapping of logs to values")
    check_canvas("figure", figure, "add_subplot")
    panels = _panels_of({str(name): values for name, values in logs.items()})
    if not panels:
        raise ValueError(
            f"The history holds {list(logs)}; logs such as 'zeros' and 'bits_per_weight' are "
            "expected. They are written when AnnealAndMerge is among the callbacks."
        )
    rows = -(-len(panels) // 3)
    figure = new_figure(9.6, 2.3 * rows + 0.2) if figure is None else figure
    for number, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(rows, min(len(panels), 3), number), panel, logs)
    return figure


def _panels_of(logs: Mapping[str, Any]) -> list[_Panel]:
    known = [
        dataclasses.replace(p, logs=tuple(name for name in p.logs if name in logs))
        for p in _PANELS
    ]
    taken = {"loss", "val_loss", "learning_rate", *(name for p in _PANELS for name in p.logs)}
    metrics = [
        _Panel(name.replace("_", " "), tuple(n for n in (name, f"val_{name}") if n in logs))
        for name in logs
        if name not in taken and not name.startswith("val_")
    ]
    return [panel for panel in known if panel.logs] + metrics


def _draw_panel(ax: Axes, panel: _Panel, logs: Mapping[str, Sequence[float]]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    for name, colour, style in zip(panel.logs, SERIES, ("-", "--"), strict=False):
        values = panel.factor * np.asarray(logs[name], float)
        label = "validation" if name.startswith("val_") else "training"
        epochs = np.arange(1, len(values) + 1)
        ax.plot(epochs, values, style, color=colour, label=label)
    ax.set_title(panel.title, fontsize="medium")
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if panel.scale == "log":
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    if panel.integer:
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if len(panel.logs) > 1:
        ax.legend(frameon=False, fontsize="small")
    tidy(ax)


def plot_tradeoff(
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    baseline: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plots error against file size, one series per method.

    A line joins the points of a series that no other point of it beats in both.

    Args:
        points: (size in bytes > 0, error in [0, 1]) of every model, by name of the series.
        baseline: error of the dense model in [0, 1], drawn as a horizontal line.
        ax: axes to draw on; `None`: new axes.

    Returns:
        The axes, the size on a logarithmic scale.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there are no points, or a size is not above 0.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> ax = plot_tradeoff({"shared": [(4_000, 0.018), (9_000, 0.016), (9_500, 0.02)]})
        >>> ax.get_lines()[0].get_xdata().tolist()
        [4000.0, 9000.0]
    """
    check_kind("points", points, Mapping, "a mapping of names to (bytes, error) pairs")
    check_canvas("ax", ax, "plot")
    if baseline is not None:
        check_numbers(baseline=baseline)
    arrays = {name: floats("points", series) for name, series in points.items()}
    if not arrays or not all(map(_are_points, arrays.values())):
        raise ValueError(
            "points must map names to non-empty lists of (bytes, error) pairs; received "
            f"{dict(points)!r}."
        )
    ax = new_axes(6.5, 4.2) if ax is None else ax
    for k, (name, series) in enumerate(arrays.items()):
        colour, marker = SERIES[k % len(SERIES)], _MARKERS[k % len(_MARKERS)]
        sizes, errors = pareto_front(series).T
        ax.plot(sizes, 100 * errors, color=colour, linewidth=1, drawstyle="steps-post")
        sizes, errors = series.T
        ax.scatter(sizes, 100 * errors, color=colour, marker=marker, s=30, label=name)
    if baseline is not None:
        ax.axhline(100 * baseline, color="0.4", linestyle="--", label="dense")
    ax.set(xscale="log", xlabel="file size", ylabel="error (%)")
    _label_sizes(ax)
    ax.legend(frameon=False)
    tidy(ax)
    return ax


def _label_sizes(ax: Axes) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter("B"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _are_points(array: np.ndarray) -> bool:
    return array.ndim == 2 and array.shape[1] == 2 and bool(np.all(array[:, 0] > 0))


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Returns the points that no other beats in both columns, by ascending first column.

    Example:
        >>> pareto_front(np.array([[3, 1], [1, 2], [2, 2]])).tolist()
        [[1, 2], [3, 1]]
    """
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], ordered[:-1, 1]]))
    return ordered[ordered[:, 1] < best_before]
