"""Writes TensorBoard summaries of a training under soft weight-sharing."""

from __future__ import annotations

import os
import time
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.arguments import check_integer, check_path
from tfmot_sws.visualization.checks import check_wrapped, require


class SoftWeightSharingSummaries(keras.callbacks.Callback):
    """Writes TensorBoard scalars and histograms of the mixture during `fit`.

    The scalars are every log of the epoch (losses, metrics, `zeros`, `num_components`,
    `bits_per_weight`), `snap`, `complexity_weight`, and each living component's mean,
    standard deviation and proportion. The histograms show every shared variable. The
    callback needs tensorboard but not TensorFlow, so it works with every Keras backend.

    Args:
        log_dir: folder for the event files; created if it is missing.
        every: epochs from one set of summaries to the next, >= 1.
        buckets: number of buckets of a histogram, >= 1. If weights are symmetric, an odd
            number puts zero near the middle of a bucket.

    Raises:
        ImportError: tensorboard is missing.
        ValueError: an argument is out of range; in `fit`, a model that is not wrapped.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str], *, every: int = 1, buckets: int = 101
    ) -> None:
        super().__init__()
        require("tensorboard")
        check_path("log_dir", log_dir)
        check_integer("every", every, 1)
        check_integer("buckets", buckets, 1)
        self.log_dir, self.every, self.buckets = os.fspath(log_dir), every, buckets
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the event file."""
        check_wrapped(self)
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(self.log_dir)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the summaries of the epoch, and flushes them so that they appear at once."""
        if epoch % self.every:
            return
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for tag, value in self._scalars(logs or {}).items():
            self._write(scalar_pb(tag, np.float32(value)), epoch)
        for tag, values in self._weights().items():
            self._write(histogram_pb(tag, values, self.buckets), epoch)
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the event file."""
        self._writer.close()

    def _scalars(self, logs: dict[str, Any]) -> dict[str, float]:
        model = self.model
        scalars = {f"epoch/{name}": float(value) for name, value in logs.items()}
        for name in ("snap", "complexity_weight"):
            scalars[f"schedule/{name}"] = float(ops.convert_to_numpy(getattr(model, name)))
        for number, group in enumerate(model.groups):
            prior, mixture = group.prior, group.prior.mixture()
            name = "mixture" if len(model.groups) == 1 else f"mixture_{number}"
            columns = zip(
                prior.alive_slots,
                mixture.means,
                mixture.stddevs,
                mixture.mixing_proportions,
                strict=True,
            )
            for slot, mean, stddev, proportion in columns:
                scalars[f"{name}_mean/{slot:02d}"] = mean
                scalars[f"{name}_stddev/{slot:02d}"] = stddev
                scalars[f"{name}_proportion/{slot:02d}"] = proportion
        return scalars

    def _weights(self) -> dict[str, NDArray]:
        choices = self.model.weight_choices
        return {
            f"weights/{choices[position].path}": ops.convert_to_numpy(v)
            .astype(np.float32)
            .ravel()
            for group in self.model.groups
            for position, v in zip(group.positions, group.variables, strict=True)
        }

    def _write(self, summary: Any, epoch: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(summary=summary, step=epoch, wall_time=time.time()))
