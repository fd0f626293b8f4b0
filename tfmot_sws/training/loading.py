"""The scope in which wrapped tf_keras models are loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from tfmot_sws.models.libraries import library_named


def soft_weight_sharing_scope() -> AbstractContextManager[Any]:
    """A scope in which tf_keras knows the classes of wrapped models and layers.

    Use it, as `tfmot.sparsity.keras.prune_scope`, around `tf_keras.models.load_model` for
    HDF5 files and SavedModels; `.keras` files name the module of each class, and
    Keras 3 models need no scope either. It imports tf_keras.

    Returns:
        A context manager.

    Raises:
        ImportError: tf_keras is not installed.

    Example:
        >>> import tf_keras
        >>> with soft_weight_sharing_scope():
        ...     found = tf_keras.saving.get_registered_object("SoftWeightSharingLayer")
        >>> found.__name__
        'SoftWeightSharingLayer'
    """
    library = library_named("tf_keras")
    return library.saving.custom_object_scope(
        {
            name: kind
            for kind in library.wrappers
            for name in (kind.__name__, f"tfmot_sws>{kind.__name__}")
        }
    )
