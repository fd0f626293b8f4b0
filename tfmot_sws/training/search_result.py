"""What a search for the smallest file has found: its trainings, and the best of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a search.

    Args:
        number: from 1.
        start: number of the training whose network it began with; 0 for the pretrained one.
        asked: the compression ratio that it was to reach.
        ratio: the one that it reached: float32 bytes of all variables over those of the file.
        size: bytes of the file.
        value: the metric on the validation data.
        drop: by how much that is worse than the given model's; below 0 if it is better.
        met: whether the drop is no more than was allowed.
        seconds: the training took.
        file: name of its `.sws` file in the folder.
    """

    number: int
    start: int
    asked: float
    ratio: float
    size: int
    value: float
    drop: float
    met: bool
    seconds: float
    file: str


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What `find_smallest` has found.

    Args:
        model: the smallest network that meets the condition, plain and clustered; where none
            does, the one that comes nearest to it.
        met: whether it meets the condition.
        chosen: its training.
        trials: all trainings, in their order.
        metric: name of the metric.
        baseline: the given model's.
        max_drop: the condition.
    """

    model: Any
    met: bool
    chosen: Trial
    trials: tuple[Trial, ...]
    metric: str
    baseline: float
    max_drop: float

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trainings that no other beats in both size and metric, the smallest first."""
        known = [trial for trial in self.trials if not math.isnan(trial.drop)]
        ordered = sorted(known, key=lambda trial: (trial.size, trial.drop))
        kept: list[Trial] = []
        for trial in ordered:
            if not kept or trial.drop < kept[-1].drop:
                kept.append(trial)
        return tuple(kept)

    @property
    def points(self) -> dict[str, list[tuple[float, float]]]:
        """(bytes, drop of the metric) of all trainings, as `plot_tradeoff` takes them."""
        return {f"drop of {self.metric}": [(float(t.size), t.drop) for t in self.trials]}

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns the trainings as plain values, ready for JSON."""
        return [dataclasses.asdict(trial) for trial in self.trials]

    def table(self) -> Table:
        """Returns the trainings as a rich table."""
        table = Table(
            title=f"Trainings; the given model's {self.metric} is {self.baseline:.4f}, and "
            f"{self.max_drop:g} worse is allowed",
            box=SIMPLE,
        )
        for name in ("", "from", "asked", "ratio", "bytes", self.metric, "drop", "seconds"):
            table.add_column(name, justify="right")
        for t in self.trials:
            mark = " <" if t is self.chosen else ""
            table.add_row(
                str(t.number),
                str(t.start or "given"),
                f"{t.asked:.1f}x",
                f"{t.ratio:.1f}x",
                f"{t.size:,}",
                f"{t.value:.4f}",
                f"{t.drop:+.4f}{' ok' if t.met else ''}{mark}",
                f"{t.seconds:.0f}",
            )
        return table

    def __str__(self) -> str:
        console = Console(width=120, color_system=None, force_jupyter=False)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get()
