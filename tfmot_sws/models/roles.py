"""Tells the weights of products and look-ups from parameters that are better not shared.

A slope of PReLU or a learned bit width takes many values for a reason, and sharing them
saves next to nothing. Layers of Keras name the weights of their products; of layers of
the user's own a matrix is taken for one unless its name or shape says otherwise. What has
a constraint would miss it, were its values moved to those of clusters.
"""

from __future__ import annotations

import re
from typing import Any, Final

from tfmot_sws.models.libraries import native, walk

_PRODUCTS: Final = ("kernel", "embedding")
_LIBRARIES: Final = ("keras", "tf_keras", "keras_hub", "keras_nlp", "keras_cv")
# Words in the names of parameters that layers apply element by element.
_ELEMENTWISE: Final = re.compile(
    "alpha|beta|(bit)?width|bits?|gamma|masks?|offset|scales?|scaling|shift|slopes?|step|"
    "temperature|thresholds?|zeropoint"
)


def other_roles(model: Any) -> dict[int, str]:
    """Why variables are better not shared, by the `id` of the library's variable.

    Args:
        model: a model or layer.
    """
    roles: dict[int, str] = {}
    # Layers come before those within them, so that the innermost one has the last word.
    for layer in walk(model):
        # A layer of tf_keras with a vocabulary lists a table as a weight.
        for variable in (v for v in layer.weights if hasattr(v, "shape")):
            ident = id(native(variable))
            roles.pop(ident, None)
            reason = _reason(layer, variable)
            if reason:
                roles[ident] = reason
    return roles | _assigned(model)


def _reason(layer: Any, variable: Any) -> str | None:
    constraint = getattr(variable, "constraint", None)
    if constraint is not None:
        kind = type(constraint).__name__
        return f"has the constraint {kind}, which shared values would not keep"
    return _reason_of_matrix(layer, variable) if len(variable.shape) > 1 else None


def _reason_of_matrix(layer: Any, variable: Any) -> str | None:
    name = variable.name.partition(":")[0].rpartition("/")[2]
    is_own = type(layer).__module__.split(".")[0] not in _LIBRARIES
    # bit_width, bitWidth and bits_0 alike.
    words = re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", name).lower())
    if is_own and words and _ELEMENTWISE.fullmatch(words[-1]):
        return f"named '{name}', as no weight of a product is"
    if any(word in name for word in _PRODUCTS):
        return None
    if not is_own:
        return f"'{name}' of {type(layer).__name__}, no weight of a product"
    if len(variable.shape) > 2 and sum(size != 1 for size in variable.shape) < 2:
        return "one axis only is longer than 1: broadcast, no weight of a product"
    return None


def _assigned(model: Any) -> dict[int, str]:
    """Kernels that SpectralNormalization, of either library, scales in its call."""
    return {
        id(native(variable)): "assigned by SpectralNormalization in its call"
        for layer in walk(model)
        if type(layer).__name__ == "SpectralNormalization"
        for variable in layer.layer.weights
        if any(word in variable.name for word in _PRODUCTS)
    }
