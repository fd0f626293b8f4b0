"""Which part of a training a call of `fit` is: the whole of it, or one of several."""

from __future__ import annotations

from typing import Final

from tfmot_sws.arguments import check_integer

# What to do, for the messages of all that may come of a loop of fits.
IN_A_LOOP: Final = (
    "In a loop of fits pass the same AnnealAndMerge(epochs=the epochs of all) to each."
)


class Course:
    """Counts the epochs of a training that one call of `fit`, or several, make up.

    Args:
        total: epochs of all calls together; `None` where each call is a whole training.

    Attributes:
        done: epochs so far, those of earlier calls included.

    Raises:
        ValueError: `total` is no integer above 0.
    """

    def __init__(self, total: int | None = None) -> None:
        if total is not None:
            check_integer("epochs", total, 1)
        self.total = total
        self.done = 0
        self._of_fit = 1
        self._offset = 0

    @property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        return self.total or self._of_fit

    @property
    def fraction_done(self) -> float:
        """The share of the training that is done, 0 to 1."""
        return self.done / self.epochs

    def begin(self, epochs: int | None) -> None:
        """Takes the number of epochs that `fit` was given, `initial_epoch` included."""
        self._of_fit = max(epochs or 1, 1)
        if self.total is None:
            self.done = 0

    def place(self, first: int) -> None:
        """Takes the first epoch of a call.

        A call that begins with 0 goes on where the last one ended. Any other number, from
        `initial_epoch` or a backup, counts from the beginning of the training.

        Raises:
            ValueError: the call would go on beyond the end of the training.
        """
        if self.total is None:
            return
        self._offset = self.done if first == 0 else 0
        last = self._offset + self._of_fit
        if last > self.total:
            raise ValueError(
                f"AnnealAndMerge(epochs={self.total}) would have this fit go on to epoch "
                f"{last}. Pass the epochs of all fits together as epochs=, and for a further "
                "training a new AnnealAndMerge."
            )

    def number(self, epoch: int) -> int:
        """The number of an epoch in the whole training, by that in its `fit`."""
        return epoch + self._offset

    def is_started_over(self, first: int, ended: float) -> bool:
        """Whether this call seems to be one of a loop whose calls all start the training over.

        Args:
            first: the first epoch of the call.
            ended: share of a training, 0 to 1, at which the call before ended.
        """
        if self.total is None:
            return self._of_fit - first == 1 and ended == 1.0
        return self.number(first) / self.total < ended < 1.0
