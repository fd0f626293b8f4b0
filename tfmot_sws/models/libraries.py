"""Keras 3 and tf_keras (Keras 2): one record each of what the package needs of them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import keras

from tfmot_sws.models.quick_building import quick_building

_TF_KERAS: Final = "tf_keras"


class TooLargeError(ValueError):
    """A model asks for a variable that is larger than any that is expected."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(f"a variable of shape {shape}, larger than any expected")
        self.shape = shape


@dataclasses.dataclass(frozen=True)
class Library:
    """What the package needs of a library of models.

    Args:
        name: as it stands in a `.sws` file; empty for Keras 3.
        package: the first part of its modules' names.
        model: its class of models.
        sequential: its class of models that are one layer after the other.
        layer: its class of layers.
        input: makes a symbolic input.
        saving: its module of the same name: serialisation, custom objects.
        schedules: its module of learning rate schedules.
        policy: gives the global dtype policy.
        set_policy: sets it.
        walk: gives a layer and the layers within it.
        view: gives a model's variables the interface of Keras 3's.
        show_inputs: has a clone learn its inputs as the model knows them.
        limited: a context, made from the sizes of the variables that are expected, in
            which a model that asks for larger ones raises `TooLargeError`.
        quick_building: a context in which a model whose weights are replaced anyway is
            built in less time; gives custom objects to build it with.
        unrolled_steps: the longest sequence over which building a model with these
            layers unrolls a recurrence; 0 where building does not.
        wrap: puts a model under soft weight-sharing; `None` for Keras 3, whose wrapper
            `training` has itself.
        strip_layers: gives a copy of a model without wrapped layers; `None` for Keras 3,
            where only whole models are wrapped.
        layers_in_graph: gives the layers of a Sequential or Functional model, and of such
            models that it holds; none of others. `None` for Keras 3, as for `strip_layers`.
        squared_gradients: gives the mean squared gradient of a batch in each shared tensor
            of a wrapped model; `None` for Keras 3, as for `wrap`.
        wrappers: classes of wrapped models and layers that its files name.
    """

    name: str
    package: str
    model: type[Any]
    sequential: type[Any]
    layer: type[Any]
    input: Callable[..., Any]
    saving: Any
    schedules: Any
    policy: Callable[[], Any]
    set_policy: Callable[[Any], None]
    walk: Callable[[Any], Iterator[Any]]
    view: Callable[[Any], Any]
    show_inputs: Callable[[Any, Any], None]
    limited: Callable[[Sequence[int]], contextlib.AbstractContextManager[Any]]
    quick_building: Callable[[], contextlib.AbstractContextManager[dict[str, Any]]]
    unrolled_steps: Callable[[Any], int]
    wrap: Callable[..., Any] | None = None
    strip_layers: Callable[[Any], Any] | None = None
    layers_in_graph: Callable[[Any], Iterator[Any]] | None = None
    squared_gradients: Callable[..., Any] | None = None
    wrappers: tuple[type[Any], ...] = ()


class _NoMemoryScope(keras.StatelessScope):
    """Lets a model be built without weights; any larger than expected ends it."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(initialize_variables=False)
        self._max_size = max(sizes, default=0)

    def get_current_value(self, variable: keras.Variable) -> Any:
        if math.prod(variable.shape) > self._max_size:
            raise TooLargeError(tuple(variable.shape))
        return super().get_current_value(variable)


def _walk_keras_3(layer: Any) -> Iterator[Any]:
    # Public `layers` leaves out what a layer wraps, such as the cell of an RNN.
    if isinstance(layer, keras.layers.Layer):
        yield from layer._flatten_layers()


KERAS_3: Final = Library(
    name="",
    package="keras",
    model=keras.Model,
    sequential=keras.Sequential,
    layer=keras.layers.Layer,
    input=keras.Input,
    saving=keras.saving,
    schedules=keras.optimizers.schedules,
    policy=keras.config.dtype_policy,
    set_policy=keras.config.set_dtype_policy,
    walk=_walk_keras_3,
    view=lambda model: model,
    show_inputs=lambda _model, _clone: None,
    limited=_NoMemoryScope,
    quick_building=quick_building,
    unrolled_steps=lambda _model: 0,
)


def library_of(thing: Any) -> Library:
    """The library of a model, layer or optimizer; Keras 3 for anything else."""
    return _tf_keras() if is_tf_keras(thing) else KERAS_3


def library_named(name: Any) -> Library:
    """The library by the name in a `.sws` file; `None` stands for Keras 3.

    Raises:
        KeyError: there is none of that name.
        ImportError: it is not installed.
    """
    if name is None:
        return KERAS_3
    if name != _TF_KERAS:
        raise KeyError(name)
    return _tf_keras()


def _tf_keras() -> Library:
    """The one door to the adapter, which imports tf_keras: opened when it is needed."""
    from tfmot_sws.tf_keras_adapter.library import TF_KERAS

    return TF_KERAS


def is_tf_keras(thing: Any) -> bool:
    """Whether this is an object of tf_keras, told without importing it."""
    return any(base.__module__.split(".")[0] == _TF_KERAS for base in type(thing).__mro__)


def check_model(model: Any) -> None:
    """Raises `TypeError` if this is no model of either library."""
    if not isinstance(model, library_of(model).model):
        raise TypeError(
            f"Expected a Keras model; received {type(model).__name__} {str(model)[:60]!r}."
        )


def view_of(model: Any) -> Any:
    """The model's variables with the interface of Keras 3: `weights`, `variables`, `path`."""
    return library_of(model).view(model)


def walk(layer: Any) -> Iterator[Any]:
    """A layer, and the layers within it."""
    return library_of(layer).walk(layer)


def native(variable: Any) -> Any:
    """The library's own variable, behind a view or not: its `id` tells variables apart."""
    return getattr(variable, "native", variable)
