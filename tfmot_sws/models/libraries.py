"""The libraries whose models a file can describe, and what in a description is theirs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import keras

from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.models.views import is_tf_keras

# Where Keras' own layers, operations, initializers and the like come from. Functions that
# read or fetch files (keras.models, keras.utils, keras.saving) are not among them.
_FUNCTIONS: Final = "activations|constraints|initializers|ops|random|regularizers"
_CLASSES: Final = _FUNCTIONS + "|dtype_policies|layers|models|quantizers"
_TF_KERAS: Final = "tf_keras"


@dataclasses.dataclass(frozen=True)
class Library:
    """How a library describes models and builds them again.

    Args:
        name: as it stands in a description; empty for Keras 3.
        model: its class of models.
        serialize: gives a model's configuration.
        deserialize: the inverse.
        registered: finds registered and custom objects by name.
        class_modules: modules whose classes are safe to build.
        function_modules: modules whose functions are safe to look up.
        limited: a context, made from the sizes of the variables that are expected, in
            which a model that asks for larger ones raises `CompressedFileError`.
        is_unsafe: whether the configuration of one of its own classes is not safe.
    """

    name: str
    model: type[Any]
    serialize: Callable[[Any], dict[str, Any]]
    deserialize: Callable[..., Any]
    registered: Callable[..., Any]
    class_modules: re.Pattern[str]
    function_modules: re.Pattern[str]
    limited: Callable[[Sequence[int]], contextlib.AbstractContextManager[Any]]
    is_unsafe: Callable[[dict[str, Any]], bool] = lambda _: False


class _NoMemoryScope(keras.StatelessScope):
    """Lets a model be built without weights; any larger than expected ends it."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(initialize_variables=False)
        self._max_size = max(sizes, default=0)

    def get_current_value(self, variable: keras.Variable) -> Any:
        if math.prod(variable.shape) > self._max_size:
            raise too_large(tuple(variable.shape))
        return super().get_current_value(variable)


def too_large(shape: tuple[int, ...]) -> CompressedFileError:
    """The error for an architecture that needs more memory than the file can fill."""
    return CompressedFileError(
        f"The architecture asks for a variable of shape {shape}, "
        "which the file does not hold. Do not use the file."
    )


KERAS_3: Final = Library(
    name="",
    model=keras.Model,
    serialize=keras.saving.serialize_keras_object,
    deserialize=keras.saving.deserialize_keras_object,
    registered=keras.saving.get_registered_object,
    class_modules=re.compile(rf"keras((\.src)?\.({_CLASSES})(\.\w+)*)?"),
    function_modules=re.compile(rf"builtins|keras(\.src)?\.({_FUNCTIONS})(\.\w+)*"),
    limited=_NoMemoryScope,
)


def library_of(model: Any) -> Library:
    """The library that made a model."""
    return library_named(_TF_KERAS if is_tf_keras(model) else None)


def library_named(name: Any) -> Library:
    """The library of a name in a description; `None` stands for Keras 3.

    Raises:
        CompressedFileError: there is none of that name, or it is not installed.
    """
    if name is None:
        return KERAS_3
    if name != _TF_KERAS:
        raise CompressedFileError(
            f"The file holds a model of {str(name)[:60]!r}; Keras 3 and {_TF_KERAS!r} are "
            "known. It was written by a later version."
        )
    try:
        from tfmot_sws.tf_keras_adapter.architecture import TF_KERAS
    except ImportError as error:
        raise CompressedFileError(
            f"The file holds a model of tf_keras (Keras 2), which cannot be imported: {error}. "
            "Install it: pip install tf_keras."
        ) from error
    return TF_KERAS
