"""What a search has done so far, in a file of its folder."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tfmot_sws.training.search_result import Trial
from tfmot_sws.whole_file import replacing

_NAME = "search.json"


class SearchState:
    """The trainings of a search, so that one that was killed goes on.

    Args:
        folder: of the search.
        identity: what must be the same for it to go on, plain values by name.
    """

    def __init__(self, folder: pathlib.Path, identity: dict[str, Any]) -> None:
        self._folder, self._path, self._identity = folder, folder / _NAME, identity

    def read(self) -> list[Trial]:
        """The trainings so far.

        Raises:
            ValueError: the folder holds another search.
        """
        if not self._path.exists():
            return []
        stored = json.loads(self._path.read_text())
        before = stored["search"]
        different = sorted(k for k, v in self._identity.items() if before.get(k) != v)
        if different:
            raise ValueError(
                f"The folder '{self._folder}' holds another search, with other "
                f"{', '.join(different)}. Pass another folder, or empty this one."
            )
        return [Trial(**trial) for trial in stored["trials"]]

    def write(self, trials: Sequence[Trial]) -> None:
        """Stores the trainings, all or none."""
        state = {
            "search": self._identity,
            "trials": [dataclasses.asdict(trial) for trial in trials],
        }
        with replacing(self._path) as path:
            path.write_text(json.dumps(state, indent=1))
