"""Rebuilds a model from its configuration, as it is or edited."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from tfmot_sws.models.libraries import library_of, view_of, walk
from tfmot_sws.models.own_objects import own_objects
from tfmot_sws.models.vocabularies import copy_assets, vocabularies_in_configs

Edit = Callable[[Any], Any]


def clone_with(model: keras.Model, edit: Edit) -> keras.Model:
    """Builds a model with the same names from an edited configuration; weights are new.

    Args:
        model: a built model.
        edit: takes and returns the serialised model, a nested dict.

    Raises:
        ValueError: the model cannot be rebuilt from its configuration.
    """
    library = library_of(model)
    try:
        with vocabularies_in_configs(model):
            config = library.saving.serialize_keras_object(model)
        config.pop("compile_config", None)
        clone = library.saving.deserialize_keras_object(
            edit(config), custom_objects=own_objects(model), safe_mode=False
        )
    # Classes of the user's own may raise any exception.
    except Exception as error:
        raise _cannot_be_rebuilt(model, _reason(error)) from error
    if not clone.built:
        raise _cannot_be_rebuilt(model, "the rebuilt model is not built")
    library.show_inputs(model, clone)
    return clone


def _cannot_be_rebuilt(model: keras.Model, reason: str) -> ValueError:
    return ValueError(
        f"Model '{model.name}' ({type(model).__name__}) cannot be rebuilt from its "
        f"configuration: {reason}. Its own classes need get_config(), and a subclassed model a "
        "build() that creates all its layers; see keras.saving.register_keras_serializable."
    )


def _reason(error: Exception) -> str:
    """The cause at the end of the long errors of Keras, which begin with configurations."""
    last = str(error).rpartition("Exception encountered:")[2].strip()
    return f"{' '.join(last.split())[:200].rstrip('. ')} ({type(error).__name__})"


def check_rebuildable(model: keras.Model) -> None:
    """Tries whether a model with own classes can be rebuilt, as `strip` will do.

    Models of Keras' classes alone are not tried: they can.

    Raises:
        ValueError: it cannot.
    """
    if not own_objects(model):
        return
    sizes = [math.prod(v.shape) for v in view_of(model).variables]
    try:
        with library_of(model).limited(sizes):
            float32_clone(model)
    except ValueError as error:
        # A variable that is given its values cannot be built without memory for them.
        if "while in a stateless scope" not in str(error):
            raise


def float32_clone(model: keras.Model) -> keras.Model:
    """The same architecture and names, computing in float32; weights are new.

    Raises:
        ValueError: the model cannot be rebuilt from its configuration.
    """
    with _float32_policy(model):
        clone = clone_with(model, as_float32)
    had, has = len(view_of(model).variables), len(view_of(clone).variables)
    if had != has:
        raise _cannot_be_rebuilt(model, f"it has {had} variables, and {has} when rebuilt")
    copy_assets(model, clone)
    return clone


@contextlib.contextmanager
def _float32_policy(model: keras.Model) -> Iterator[None]:
    """Makes the layers that a subclassed model creates itself compute in float32."""
    library = library_of(model)
    before = library.policy()
    library.set_policy("float32")
    try:
        yield
    finally:
        library.set_policy(before)


def copy_float32(model: keras.Model) -> keras.Model:
    """An uncompiled copy that computes in float32, with the same weights.

    Raises:
        ValueError: the model cannot be rebuilt from its configuration.
    """
    clone = float32_clone(model)
    pairs = zip(view_of(model).variables, view_of(clone).variables, strict=True)
    for source, target in pairs:
        target.assign(ops.convert_to_numpy(source))
    finalize(clone)
    return clone


def computes_in_float32(model: keras.Model) -> bool:
    """Whether no layer of the model computes in half precision."""
    return all(
        dtype not in ("float16", "bfloat16", "float64")
        for layer in walk(model)
        for dtype in (layer.compute_dtype, layer.variable_dtype)
    )


def finalize(model: keras.Model) -> None:
    """Lets layers compute again what they derive from their variables."""
    for layer in walk(model):
        update: Callable[[], None] | None = getattr(layer, "finalize_state", None)
        if update is not None:
            update()


def edit_dicts(config: Any, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A nested configuration in which each dict is edited, the outer ones first."""
    if isinstance(config, list | tuple):
        return type(config)(edit_dicts(item, edit) for item in config)
    if not isinstance(config, dict):
        return config
    return {key: edit_dicts(value, edit) for key, value in edit(config).items()}


def dicts_in(config: Any) -> Iterator[dict[str, Any]]:
    """Every dict in a nested configuration, the outer ones first."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, dict | list | tuple):
        for item in config.values() if isinstance(config, dict) else config:
            yield from dicts_in(item)


def as_float32(config: Any) -> Any:
    """A serialised model with every dtype policy replaced by float32."""

    def edit(part: dict[str, Any]) -> dict[str, Any]:
        # The latter is the name in tf_keras.
        is_policy = part.get("class_name") in ("DTypePolicy", "Policy")
        return {**part, "config": {"name": "float32"}} if is_policy else part

    return edit_dicts(config, edit)


def unroll_recurrences(config: Any) -> Any:
    """A serialised model whose recurrent layers are unrolled over time."""
    return _with_unroll(config, True)


def roll_recurrences(config: Any) -> Any:
    """A serialised model whose recurrent layers are loops."""
    return _with_unroll(config, False)


def _with_unroll(config: Any, unroll: bool) -> Any:
    return edit_dicts(
        config, lambda part: {**part, "unroll": unroll} if "unroll" in part else part
    )
