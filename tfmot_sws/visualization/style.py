"""Sets colours and axes of all pictures; the only module that imports pyplot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfmot_sws.visualization.checks import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which suits every kind of colour vision.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#CC79A7",
)
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE)
ZERO, OTHERS = VERMILLION, BLUE
DENSITY = "Greys"


def new_axes(width: float, height: float) -> Axes:
    """Makes axes in a new figure; sizes in inches."""
    return new_figure(width, height).add_subplot()


def new_figure(width: float, height: float) -> Figure:
    """Makes a figure that pyplot manages, so that `plt.show()` and notebooks show it."""
    require("matplotlib")
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(width, height), layout="constrained")


def tidy(ax: Axes, **grid: Any) -> None:
    """Hides the upper and right frame, and draws a faint grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.9", linewidth=0.8, **grid)
    ax.set_axisbelow(True)
