"""Keeps the losses of replicas apart, where tf.distribute runs several over one model.

Distribution itself is Keras' own: every replica computes the whole prior on its copy of the
weights, and Keras scales `add_loss` by the number of replicas, so that the complexity counts
once.
"""

from __future__ import annotations

import threading
from typing import Any

Tensor = Any


class ReplicaLosses:
    """Tells a replica's losses from those that other replicas have added meanwhile.

    `MirroredStrategy` traces its replicas in threads, which take turns whenever one of
    them writes a variable, as BatchNorm and dropout do. They share the model, and with it
    the list behind `add_loss`: without this the second replica would count the first one's
    losses as well.
    """

    def __init__(self) -> None:
        self._by_thread: dict[int, list[Tensor]] = {}

    def note(self, losses: list[Tensor]) -> None:
        """Takes down the losses that the calling thread adds, in place of earlier ones."""
        running = {thread.ident for thread in threading.enumerate()}
        kept = {ident: x for ident, x in self._by_thread.items() if ident in running}
        self._by_thread = {**kept, threading.get_ident(): losses}

    def without_others(self, losses: list[Tensor]) -> list[Tensor]:
        """Those of the losses that no other running thread has added."""
        own = threading.get_ident()
        by_others = {id(x) for ident, xs in self._by_thread.items() if ident != own for x in xs}
        return [loss for loss in losses if id(loss) not in by_others]
