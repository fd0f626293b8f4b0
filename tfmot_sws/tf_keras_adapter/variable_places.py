"""Finds where tf_keras layers hold their variables, and puts tensors there for a call.

tf_keras has no stateless call. A variable that is not an attribute of a layer, nor in a list
or dict that is one, cannot be replaced, and is left unshared.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from tfmot_sws.models.selection import WeightChoice
from tfmot_sws.tf_keras_adapter.views import ModelView


@dataclasses.dataclass(frozen=True)
class Place:
    """An attribute of a layer or module that is a variable, or contains it.

    Args:
        owner: the layer or module.
        attribute: the name of the attribute.
        held: its value.
        key: index or key of the variable in `held`; `None` where `held` is the variable.
    """

    owner: tf.Module
    attribute: str
    held: Any
    key: Any = None


def find_places(root: tf.Module) -> dict[int, list[Place]]:
    """Every place of a layer, and of all within it, by the `id` of the variable there."""
    places: dict[int, list[Place]] = {}
    for owner in (root, *root.submodules):
        for place in _places_in(owner):
            variable = place.held if place.key is None else place.held[place.key]
            places.setdefault(id(variable), []).append(place)
    return places


def _places_in(owner: tf.Module) -> Iterator[Place]:
    for name, held in vars(owner).items():
        if isinstance(held, tf.Variable):
            yield Place(owner, name, held)
        # What starts with an underscore is the bookkeeping of tf_keras.
        elif isinstance(held, list | dict) and not name.startswith("_"):
            entries = held.items() if isinstance(held, dict) else enumerate(held)
            for key, value in entries:
                if isinstance(value, tf.Variable):
                    yield Place(owner, name, held, key)


class Replacement:
    """Puts tensors in the places of variables for the time of a call.

    Args:
        places: of each variable to replace.
    """

    def __init__(self, places: Sequence[Sequence[Place]]) -> None:
        self._places = [list(of_one) for of_one in places]
        self._busy = False

    @contextlib.contextmanager
    def __call__(self, tensors: Sequence[tf.Tensor]) -> Iterator[None]:
        """Within this context the layers read the tensors, one a variable.

        Raises:
            RuntimeError: another replica is amid its call.
        """
        # Replicas of a strategy are threads, which take turns only when they synchronise.
        if self._busy:
            raise RuntimeError(
                "Under a tf.distribute strategy the replicas' calls of a tf_keras model "
                "must not overlap, as they do where a layer synchronises them "
                "(SyncBatchNormalization). Take plain BatchNormalization, or Keras 3."
            )
        self._busy = True
        try:
            for of_one, tensor in zip(self._places, tensors, strict=True):
                for place in of_one:
                    _put(place, _as_read(place, tensor))
            yield
        finally:
            for place in (place for of_one in self._places for place in of_one):
                vars(place.owner)[place.attribute] = place.held
            self._busy = False


def _put(place: Place, tensor: tf.Tensor) -> None:
    """Writes past `__setattr__`, where tf_keras would take note of a new attribute."""
    attributes = vars(place.owner)
    if place.key is None:
        attributes[place.attribute] = tensor
        return
    present = attributes[place.attribute]
    if present is place.held:
        # A copy, for tf_keras' own containers take note of what is done to them too.
        present = dict(present) if isinstance(present, dict) else list(present)
        attributes[place.attribute] = present
    present[place.key] = tensor


def _as_read(place: Place, tensor: tf.Tensor) -> tf.Tensor:
    """In the dtype in which the layer would read its variable."""
    variable = place.held if place.key is None else place.held[place.key]
    if isinstance(place.owner, tf_keras.layers.Layer) and _is_cast(variable):
        return tf.cast(tensor, place.owner.compute_dtype)
    return tensor


def _is_cast(variable: tf.Variable) -> bool:
    """Whether mixed precision casts this variable where it is read; tf_keras hides that."""
    return any(base.__name__ == "AutoCastVariable" for base in type(variable).__mro__)


def only_replaceable(
    model: tf_keras.layers.Layer, choices: list[WeightChoice]
) -> list[WeightChoice]:
    """The choices without variables that the layers do not hold as attributes.

    Raises:
        ValueError: no variable is left to share.
    """
    places = find_places(model)
    variables = [view.native for view in ModelView(model).weights]
    kept = [
        choice
        if id(variable) in places or not choice.shared
        else dataclasses.replace(
            choice,
            shared=False,
            reason="not an attribute of its layer, or in a list or dict of it",
        )
        for choice, variable in zip(choices, variables, strict=True)
    ]
    if not any(choice.shared for choice in kept):
        raise ValueError(
            f"Model '{model.name}' holds none of the variables to share as an attribute of "
            "a layer, or in a list or dict that is one; in tf_keras only those can be shared."
        )
    return kept
