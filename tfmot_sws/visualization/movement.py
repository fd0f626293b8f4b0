"""Plots retrained weights against pretrained weights, with the mixture's components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfmot_sws.arguments import check_integer, check_kind
from tfmot_sws.models.wrapped import is_wrapped
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.visualization.checks import check_canvas
from tfmot_sws.visualization.counts import MAX_BINS, Movement, axis_limit
from tfmot_sws.visualization.style import DENSITY, OTHERS, ZERO, new_axes, tidy
from tfmot_sws.visualization.weights import Weights, pair_weights

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.patches import StepPatch


def plot_weight_movement(
    before: Weights,
    after: Weights,
    mixture: GaussianMixture | None = None,
    *,
    bins: int = 151,
    ax: Axes | None = None,
) -> Axes:
    """Plots retrained weights against pretrained weights, with the mixture's components.

    The middle shows the joint density on a logarithmic grey scale; a weight on the dotted
    diagonal did not move. Each component is a band of two standard deviations to both
    sides of its mean; the zero component has its own colour. The histogram of the
    retrained weights, on the right, is logarithmic: on a linear scale the peak at zero
    would hide the other clusters.

    Args:
        before: the pretrained weights: a model, the value of `read_weights`, or an array.
            `fit` changes the weights of a wrapped model, so read them before.
        after: the retrained weights: the wrapped model, or as for `before`.
        mixture: the components to draw. `None`: those of `after` if it is a wrapped model
            with a single mixture, else none.
        bins: bins along each axis, >= 1; an odd number puts zero in the middle of a bin.
        ax: axes to draw on; they shrink to make room for the histograms. `None`: new axes.

    Returns:
        The axes of the joint density; `child_axes` holds the two histograms.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: before and after are not the same variables.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> mixture = GaussianMixture([0, 0.5], [0.05, 0.02], [0.9, 0.1])
        >>> ax = plot_weight_movement([0.1, 0.4], [0.01, 0.5], mixture)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('pretrained weight', 'retrained weight')

    References:
        Ullrich et al. 2017, figure 1.
    """
    check_integer("bins", bins, 1, MAX_BINS)
    check_canvas("ax", ax, "inset_axes")
    if mixture is not None:
        check_kind("mixture", mixture, GaussianMixture, "a GaussianMixture")
    pair = pair_weights(before, after)
    mixture = _own_mixture(after) if mixture is None else mixture
    limits = axis_limit(pair[0]), axis_limit(pair[1])
    movement = Movement.count(*pair, limits=limits, bins=bins)
    return MovementPanels(new_axes(6.5, 6) if ax is None else ax, movement, mixture).joint


class MovementPanels:
    """The joint density with a histogram above and one to the right.

    Args:
        ax: axes for the joint density.
        movement: the state to show first; all states share its weights before training.
        mixture: the components to draw. `None`: no state shows components.
    """

    def __init__(self, ax: Axes, movement: Movement, mixture: GaussianMixture | None) -> None:
        self.joint = ax
        self.above = ax.inset_axes((0, 1.02, 1, 0.18), sharex=ax)
        self.right = ax.inset_axes((1.02, 0, 0.18, 1), sharey=ax)
        self._lay_out(movement)
        self._density = self._draw_density(movement)
        self._spread = self._draw_spread(movement)
        # The zero component comes last, so that it is drawn on top.
        parts = ((slice(1, None), OTHERS, "others"), (slice(0, 1), ZERO, "zero component"))
        self._bands = [
            Bands(panel, part, colour, f"{name}, mean ± 2σ")  # noqa: RUF001
            for panel in (self.joint, self.right)
            for part, colour, name in (parts if mixture else ())
        ]
        self.update(movement, mixture)
        self._draw_legend()

    @property
    def moving(self) -> list[Artist]:
        """The artists that `update` changes, in drawing order."""
        bands = [artist for band in self._bands for artist in (band.boxes, band.lines)]
        return [*bands, self._density, self._spread]

    def update(self, movement: Movement, mixture: GaussianMixture | None) -> None:
        """Shows another state of the retrained weights."""
        most = max(int(movement.counts.max()), 2)
        self._density.set_data(np.ma.masked_equal(movement.counts.T, 0))
        # The scale starts below 1, so that single weights stand out from the background.
        self._density.set_clim(most**-0.5, most)
        self._spread.set_data(movement.counts.sum(0))
        if mixture is not None:
            for band in self._bands:
                band.update(mixture)

    def _lay_out(self, movement: Movement) -> None:
        from matplotlib.ticker import MaxNLocator

        before, after = movement.limit_before, movement.limit_after
        self.joint.set(xlabel="pretrained weight", ylabel="retrained weight")
        self.joint.set(xlim=(-before, before), ylim=(-after, after))
        self.joint.axline((0, 0), slope=1, color="0.5", linestyle=":", label="did not move")
        # A label at the end would overlap the labels of the histogram on the right.
        self.joint.xaxis.set_major_locator(MaxNLocator(6, prune="both"))
        self.above.set_ylabel("count")
        self.above.tick_params(labelbottom=False)
        counts = movement.counts.sum(1)
        self.above.stairs(counts, movement.edges_before, color="0.3", fill=True)
        self.right.set(xlabel="count", xscale="log", xlim=(0.7, 3 * counts.sum()))
        self.right.tick_params(labelleft=False)
        for panel in (self.joint, self.above, self.right):
            tidy(panel)

    def _draw_density(self, movement: Movement) -> AxesImage:
        extent = (*movement.edges_before[[0, -1]], *movement.edges_after[[0, -1]])
        return self.joint.imshow(
            movement.counts.T,
            cmap=DENSITY,
            norm="log",
            extent=extent,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            zorder=2,
        )

    def _draw_spread(self, movement: Movement) -> StepPatch:
        return self.right.stairs(
            movement.counts.sum(0),
            movement.edges_after,
            orientation="horizontal",
            baseline=0.7,
            color="0.3",
            fill=True,
        )

    def _draw_legend(self) -> None:
        legend = self.above.legend(
            *self.joint.get_legend_handles_labels(),
            loc="lower left",
            bbox_to_anchor=(0, 1.02),
            ncols=3,
            fontsize="x-small",
            frameon=False,
            borderpad=0,
            columnspacing=1,
            handlelength=1.5,
        )
        for patch in legend.get_patches():
            patch.set_alpha(0.3)


class Bands:
    """Draws components as bands across a panel, with a line at each mean.

    Args:
        panel: axes whose y axis shows the values of the weights.
        part: slice of the components to draw.
        colour: colour of the bands and lines.
        label: text in the legend.
    """

    def __init__(self, panel: Axes, part: slice, colour: str, label: str) -> None:
        from matplotlib.collections import LineCollection, PolyCollection

        self._part, self._colour = part, colour
        # x runs from 0 to 1 across the panel, y is in units of the weights.
        across = panel.get_yaxis_transform()
        self.boxes = PolyCollection(
            [],
            edgecolor=(colour, 0.4),
            linewidth=0.5,
            transform=across,
            zorder=0.6,
            label=label,
        )
        self.lines = LineCollection(
            [], color=colour, linewidth=0.8, transform=across, zorder=0.7
        )
        for artist in (self.boxes, self.lines):
            panel.add_collection(artist, autolim=False)

    def update(self, mixture: GaussianMixture) -> None:
        """Moves to the components of another mixture."""
        means, widths = mixture.means[self._part], 2 * mixture.stddevs[self._part]
        pairs = zip(means - widths, means + widths, strict=True)
        self.boxes.set_verts([[(0, a), (1, a), (1, b), (0, b)] for a, b in pairs])
        self.lines.set_segments([[(0, mean), (1, mean)] for mean in means])
        # At first many bands overlap. The more there are, the fainter each is, so that means
        # and the zero component stay visible.
        alpha = min(0.15, 0.6 / max(len(means), 1))
        self.boxes.set_facecolor((self._colour, alpha))


def _own_mixture(model: Any) -> GaussianMixture | None:
    if is_wrapped(model) and len(model.groups) == 1:
        return model.groups[0].prior.mixture()
    return None
