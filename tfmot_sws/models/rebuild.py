"""Rebuilds a model from its configuration, as it is or edited."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from tfmot_sws.models.libraries import library_of, view_of, walk
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
    advice = (
        f"Model '{model.name}' ({type(model).__name__}) cannot be rebuilt from its "
        "configuration. A subclassed model needs get_config() and a build() that creates "
        "its layers; see keras.saving.register_keras_serializable."
    )
    library = library_of(model)
    try:
        with vocabularies_in_configs(model):
            config = library.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise ValueError(advice) from error
    config.pop("compile_config", None)
    # The model is in memory already: its own classes and functions may be taken as they are.
    # Not Keras' own, which has a layer and an operation of the name Add, and more such pairs.
    classes = {
        type(part).__name__: type(part)
        for part in walk(model)
        if type(part).__module__.split(".")[0] != library.package
    }
    with library.saving.custom_object_scope(classes):
        clone = library.saving.deserialize_keras_object(edit(config), safe_mode=False)
    if not clone.built:
        raise ValueError(advice)
    library.show_inputs(model, clone)
    return clone


def float32_clone(model: keras.Model) -> keras.Model:
    """The same architecture and names, computing in float32; weights are new.

    Raises:
        ValueError: the model cannot be rebuilt from its configuration.
    """
    with _float32_policy(model):
        clone = clone_with(model, as_float32)
    had, has = len(view_of(model).variables), len(view_of(clone).variables)
    if had != has:
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) has {had} "
            f"variables, and {has} when rebuilt from its configuration. A "
            "subclassed model needs a build() that creates all its layers."
        )
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
