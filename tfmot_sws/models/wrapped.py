"""What marks a model or layer under soft weight-sharing, and finds it in another."""

from __future__ import annotations

from typing import Any, Final

from tfmot_sws.models.libraries import library_of, view_of, walk

NOT_TRAINABLE: Final = "not trainable"
_STRIP_INNER: Final = (
    "Pass that one to strip_soft_weight_sharing, and build the outer model around the plain "
    "one that it gives, where it is needed."
)


class Wrapped:
    """Marks the wrappers of models and layers.

    A type, because any model of a user may have an attribute of any name.

    Attributes:
        inner: the user's model or layer.
        sharing: the mixtures over its weights, a `WeightSharing`; `None` in a layer that
            is not built or has nothing to share.
    """

    name: str
    inner: Any
    sharing: Any

    @property
    def groups(self) -> tuple[Any, ...]:
        """`WeightGroup` records: a mixture, and the variables whose prior it is."""
        return self.sharing.groups if self.sharing else ()

    @property
    def weight_choices(self) -> tuple[Any, ...]:
        """`WeightChoice` records of `inner.weights`: what is shared, what not, and why."""
        return self.sharing.choices if self.sharing else ()

    @property
    def complexity_weight(self) -> Any:
        """Variable: tau as it is at present."""
        return self.sharing.complexity_weight

    @property
    def snap(self) -> Any:
        """Variable: the share of the way from a weight to its mean in the call, 0 to 1."""
        return self.sharing.snap

    @property
    def train_size(self) -> int | None:
        """N, the number of training examples, or `None` while it is unknown."""
        return self.sharing.train_size


def is_wrapped(model: Any) -> bool:
    """Whether a model or layer is under soft weight-sharing."""
    return isinstance(model, Wrapped)


def wrapped_parts(model: Any) -> list[Any]:
    """The model itself if it is wrapped, or the wrapped layers of a tf_keras model."""
    if is_wrapped(model):
        return [model]
    return [part for part in walk(model) if is_wrapped(part) and part.groups]


def check_plain(model: Any) -> None:
    """Raises `TypeError` if a model, or one that it holds, is under soft weight-sharing."""
    if not wrapped_parts(model):
        return
    check_not_around(model)
    raise TypeError(
        f"A stripped model is expected; '{model.name}' is under soft weight-sharing. Call "
        "strip_soft_weight_sharing(model) first."
    )


def check_not_around(model: Any, advice: str = _STRIP_INNER) -> None:
    """Raises `TypeError` for a model that is not wrapped itself, but holds a wrapped model.

    Such are the outer models of distillation. Of tf_keras single layers may be wrapped.

    Args:
        model: any model.
        advice: what to do, a sentence.
    """
    whole = (part for part in wrapped_parts(model) if isinstance(part, library_of(part).model))
    inner = next(whole, model)
    if inner is not model:
        raise TypeError(
            f"Model '{model.name}' is not wrapped itself, but holds the wrapped model "
            f"'{inner.name}'. {advice}"
        )


def check_can_be_stripped(model: Any, *, in_part: bool = False) -> None:
    """Raises `ValueError` for single wrapped layers that stripping could not take out again.

    They must be layers of a Sequential or Functional model.

    Args:
        model: any model.
        in_part: whether models that it holds may be stripped in its place.
    """
    library = library_of(model)
    if is_wrapped(model) or library.layers_in_graph is None:
        return
    models = [part for part in walk(model) if isinstance(part, library.model)]
    found = [library.layers_in_graph(one) for one in (models if in_part else [model])]
    in_graph = {id(layer) for layers in found for layer in layers}
    # Also those with nothing to share, which stripping would leave in place.
    for part in filter(is_wrapped, walk(model)):
        if id(part) not in in_graph and not isinstance(part, library.model):
            raise ValueError(
                f"Layer '{part.inner.name}' of model '{model.name}' is wrapped by itself, and "
                "lies in a subclassed model or in another layer, such as TimeDistributed. It "
                "could not be stripped. Wrap the whole model: "
                "apply_soft_weight_sharing(model), include= naming what to share."
            )


def check_unchanged(model: Wrapped) -> None:
    """Raises `ValueError` if weights were frozen, unfrozen or added after wrapping.

    What is shared was decided then.
    """
    check_same_weights(model)
    pairs = list(zip(view_of(model.inner).weights, model.weight_choices, strict=True))
    frozen = [c.path for v, c in pairs if c.shared and not v.trainable]
    unfrozen = [c.path for v, c in pairs if c.reason == NOT_TRAINABLE and v.trainable]
    if not frozen and not unfrozen:
        return
    word = "frozen" if frozen else "made trainable"
    raise ValueError(
        f"Model '{model.inner.name}' was wrapped before '{(frozen or unfrozen)[0]}' was "
        f"{word}; what is shared is decided by apply_soft_weight_sharing. Set trainable before "
        "it. To go on from a training with other layers, strip the model first, and wrap what "
        "comes out."
    )


def check_same_weights(model: Wrapped) -> None:
    """Raises `ValueError` if weights were added after wrapping, as by `enable_lora`.

    The mixtures know their weights by their places among all.
    """
    now, then = len(view_of(model.inner).weights), len(model.weight_choices)
    # A layer that is not built has no choices.
    if model.sharing is None or now == then:
        return
    raise ValueError(
        f"Model '{model.inner.name}' had {then} weights when it was wrapped, and has {now} "
        "now, as after enable_lora. Call that before apply_soft_weight_sharing, or on what "
        "strip_soft_weight_sharing gives; what was trained so far cannot be stripped or saved "
        "with other weights."
    )


def check_saved_as(path: Any) -> None:
    """Raises `ValueError` for an HDF5 file, which would be written and could not be read."""
    if str(path).endswith((".h5", ".hdf5")):
        raise ValueError(
            f"A wrapped model cannot be loaded from an HDF5 file; received '{path}'. Save it "
            "as a .keras file, or its weights alone: save_weights('name.weights.h5')."
        )
