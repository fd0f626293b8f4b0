"""The scope in which the user's Keras 3 model runs on snapped weights."""

from __future__ import annotations

import threading
from typing import Any

import keras

Tensor = Any


class InnerScope(keras.StatelessScope):
    """Puts snapped tensors in the place of shared variables, and gives on all changes.

    What a layer assigns within the scope reaches its variable at the scope's end: moving
    averages, states of random generators, metrics. Variables without a snapped tensor have
    the value that they have outside, where JAX' trainer has a scope of its own.

    Args:
        snapped: shared variables, each with its tensor.
    """

    def __init__(self, snapped: list[tuple[keras.Variable, Tensor]]) -> None:
        super().__init__(snapped, collect_losses=True)
        self._shared = {id(variable) for variable, _ in snapped}
        self._assigned: dict[int, keras.Variable] = {}

    def get_current_value(self, variable: keras.Variable) -> Tensor | None:
        """The value within the scope; `None` stands for the variable's own."""
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            return self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        """Takes what is assigned to a variable.

        Raises:
            ValueError: it is assigned to a shared weight.
        """
        variable = update[0]
        if id(variable) in self._shared:
            raise ValueError(
                f"A layer assigns its own weight '{variable.path}' while it is called. Shared "
                "weights hold few values, which such a layer would scatter. Leave it out: "
                f"apply_soft_weight_sharing(model, exclude={variable.path!r})."
            )
        self._assigned[id(variable)] = variable
        super().add_update(update)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if error and error[0] is None:
            for variable in self._assigned.values():
                variable.assign(self.state_mapping[id(variable)])
        self._assigned = {}


class LastCalls(threading.local):
    """The scope and complexity losses of the last call, until its loss is computed.

    Each replica of `tf.distribute` has a thread of its own.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, InnerScope, list[Tensor]] | None = None

    def keep(self, outputs: Any, scope: InnerScope, complexity: list[Tensor]) -> None:
        """Keeps what a call with these outputs has used, in place of an earlier one."""
        self._kept = keras.tree.flatten(outputs)[0], scope, complexity

    def take(self, outputs: Any) -> tuple[InnerScope, list[Tensor]] | None:
        """What was kept, once, if it belongs to these outputs."""
        kept, self._kept = self._kept, None
        is_of_call = kept is not None and kept[0] is next(
            iter(keras.tree.flatten(outputs)), None
        )
        return kept[1:] if kept and is_of_call else None
