"""What layers keep beside their weights: vocabularies, and assets of the user's own layers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfmot_sws.models.libraries import walk


@contextlib.contextmanager
def vocabularies_in_configs(model: Any) -> Iterator[None]:
    """Within this context configurations hold the vocabularies that layers have adapted to.

    Keras writes only those into a configuration with which a layer was made.
    """
    adapted = [layer for layer in walk(model) if _is_adapted(layer)]
    try:
        for layer in adapted:
            layer.input_vocabulary, layer.input_idf_weights = _vocabulary(layer)
        yield
    finally:
        for layer in adapted:
            layer.input_vocabulary = layer.input_idf_weights = None


def _is_adapted(layer: Any) -> bool:
    # A lookup of Keras' own, which is also what a TextVectorization holds.
    if not hasattr(layer, "input_vocabulary") or layer.input_vocabulary is not None:
        return False
    return bool(layer.get_vocabulary(include_special_tokens=False))


def _vocabulary(layer: Any) -> tuple[list[Any], list[float] | None]:
    """The vocabulary of a lookup, and the weights of its tokens where it has such."""
    if layer.output_mode != "tf_idf":
        return np.asarray(layer.get_vocabulary(include_special_tokens=False)).tolist(), None
    # With the special tokens, for these have weights too.
    tokens = np.asarray(layer.get_vocabulary()).tolist()
    return tokens, np.asarray(layer.idf_weights)[: len(tokens)].tolist()


def copy_assets(source: Any, target: Any) -> None:
    """Hands on what layers of the user's own save as assets.

    Args:
        source: a model.
        target: its rebuilt copy, with the same layers.
    """
    for old, new in zip(walk(source), walk(target), strict=False):
        if _has_own_assets(old) and _has_own_assets(new):
            with tempfile.TemporaryDirectory() as folder:
                old.save_assets(folder)
                new.load_assets(folder)


def _has_own_assets(layer: Any) -> bool:
    # The vocabularies are in the configuration.
    return hasattr(layer, "save_assets") and not hasattr(layer, "get_vocabulary")


def layers_with_assets(model: Any) -> list[str]:
    """Names of the layers that keep something in neither weights nor configuration."""
    return [
        layer.name
        for layer in walk(model)
        if hasattr(layer, "save_assets") and not layer.get_config().get("vocabulary")
    ]
