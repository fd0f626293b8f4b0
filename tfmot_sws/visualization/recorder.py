"""Records an animation of the weights' movement during training."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from tfmot_sws.arguments import check_integer, check_numbers, check_path
from tfmot_sws.prior.mixture import GaussianMixture
from tfmot_sws.visualization.checks import check_wrapped, require
from tfmot_sws.visualization.counts import MAX_BINS, Movement, axis_limit
from tfmot_sws.visualization.movement import MovementPanels
from tfmot_sws.visualization.weights import Array, check_pattern, read_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Epoch, weights, and the mixture if there is a single one.
Frame = tuple[int, Movement, GaussianMixture | None]

# All frames share their axes, which are chosen before training. This is the limit of the
# retrained weights over that of the pretrained ones; larger weights appear at the edge.
_GROWTH = 1.8
_INCHES, _DPI = 5.6, 80


class WeightMovementRecorder(keras.callbacks.Callback):
    """Writes an animated GIF, or an MP4, of the weights' movement during `fit`.

    Each frame is the picture of `plot_weight_movement` after a number of epochs. During
    training the recorder keeps only 2-D histograms; it writes the file when training ends.
    After an interruption, `write()` writes the frames taken so far.

    Args:
        path: path of the file: `.gif`, or `.mp4` if ffmpeg is installed.
        every: epochs from one frame to the next, >= 1.
        frames_per_second: speed of the animation, > 0.
        max_frames: maximum number of frames, >= 2. Beyond it, every second frame is
            dropped and frames are taken half as often.
        bins: bins along each axis; memory is about 4 * bins^2 bytes a frame.
        include: regular expression; only variables are shown in whose path it is found. The
            tensors of one layer make a clearer picture than those of all, whose scales differ.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the path has another suffix, or an argument is out of range; in `fit`, the
            model is not wrapped.
        RuntimeError: `.mp4` without ffmpeg.

    Example:
        >>> WeightMovementRecorder("movement.gif").max_frames
        100
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: int = 1,
        frames_per_second: float = 8.0,
        max_frames: int = 100,
        bins: int = 121,
        include: str | None = None,
    ) -> None:
        super().__init__()
        require("matplotlib")
        check_path("path", path)
        self.path = pathlib.Path(path)
        check_integer("every", every, 1)
        check_integer("max_frames", max_frames, 2)
        check_integer("bins", bins, 1, MAX_BINS)
        check_numbers(frames_per_second=frames_per_second)
        if include is not None:
            check_pattern(include)
        if not frames_per_second > 0:
            raise ValueError(
                f"frames_per_second must be above 0; received {frames_per_second}."
            )
        self._writer_class = _writer_class(self.path)
        self.every, self.max_frames, self.bins = every, max_frames, bins
        self.frames_per_second, self.include = frames_per_second, include
        self._frames: list[Frame] = []

    @property
    def num_frames(self) -> int:
        """Number of frames kept so far."""
        return len(self._frames)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reads the pretrained weights and takes the first frame."""
        check_wrapped(self)
        self._before = self._read()
        limit = axis_limit(self._before)
        self._limits = (limit, _GROWTH * limit)
        self._stride, self._frames = self.every, []
        self._epoch = 0
        self._add_frame()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes a frame, if one is due after this epoch."""
        self._epoch = epoch + 1
        if self._epoch % self._stride == 0 and self.num_frames == self.max_frames:
            del self._frames[1::2]
            self._stride *= 2
        if self._epoch % self._stride == 0:
            self._add_frame()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Takes a frame of the last epoch if there is none, and writes the file."""
        if self._frames[-1][0] != self._epoch:
            del self._frames[self.max_frames - 1 :]
            self._add_frame()
        self.write()

    def write(self) -> pathlib.Path:
        """Writes the frames taken so far, and replaces the file if it exists.

        Returns:
            The path of the file.

        Raises:
            RuntimeError: there is no frame yet.
        """
        if not self._frames:
            raise RuntimeError(
                "There is no frame yet: pass the recorder to fit(callbacks=...)."
            )
        pictures = _draw(self._frames)
        figure, image = _image_figure(next(pictures))
        writer = self._writer_class(fps=self.frames_per_second)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writer.saving(figure, str(self.path), dpi=_DPI):
            writer.grab_frame()
            for picture in pictures:
                image.set_data(picture)
                writer.grab_frame()
        return self.path

    def _read(self) -> Array:
        weights = read_weights(self.model, include=self.include)
        return np.concatenate([w.ravel() for w in weights.values()])

    def _add_frame(self) -> None:
        movement = Movement.count(self._before, self._read(), self._limits, self.bins)
        self._frames.append((self._epoch, movement, self._mixture()))

    def _mixture(self) -> GaussianMixture | None:
        """The mixture of the weights that are shown, if it is a single one."""
        pattern, choices = re.compile(self.include or ""), self.model.weight_choices
        groups = [
            group
            for group in self.model.groups
            if any(pattern.search(choices[position].path) for position in group.positions)
        ]
        return groups[0].prior.mixture() if len(groups) == 1 else None


def _new_figure() -> Figure:
    """Makes a figure that pyplot does not manage, so that no window opens or stays open."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_INCHES, _INCHES), dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure


def _draw(frames: list[Frame]) -> Iterator[NDArray[np.uint8]]:
    """Yields each frame as pixels.

    Axes and labels take most of the drawing time, so they are drawn once for all frames.
    """
    figure = _new_figure()
    canvas: Any = figure.canvas
    _, movement, mixture = frames[0]
    panels = MovementPanels(figure.add_axes((0.16, 0.1, 0.66, 0.66)), movement, mixture)
    title = figure.suptitle("", y=0.995)
    moving = [*panels.moving, title]
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    for epoch, movement, mixture in frames:
        canvas.restore_region(still)
        panels.update(movement, mixture)
        title.set_text(f"epoch {epoch}")
        for artist in moving:
            artist.draw(canvas.get_renderer())
        yield np.array(canvas.buffer_rgba())


def _image_figure(picture: NDArray[np.uint8]) -> tuple[Figure, Any]:
    """Makes a figure of one image, as matplotlib's writers need; returns both."""
    figure = _new_figure()
    return figure, figure.figimage(picture, origin="upper")


def _writer_class(path: pathlib.Path) -> Any:
    """Returns matplotlib's writer for a file of this name."""
    from matplotlib import animation

    writers: dict[str, Any] = {".gif": animation.PillowWriter, ".mp4": animation.FFMpegWriter}
    suffix = path.suffix.lower()
    if suffix not in writers:
        raise ValueError(f"path must end in .gif or .mp4; received '{path}'.")
    if not writers[suffix].isAvailable():
        raise RuntimeError(
            f"'{path}' needs ffmpeg, which was not found. Install ffmpeg, or write a .gif."
        )
    return writers[suffix]
