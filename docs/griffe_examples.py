"""Lets the API pages show a docstring's `Example:` as code, as they do `Examples:`."""

import re
from typing import Any

import griffe


class SingularExamples(griffe.Extension):
    """Griffe knows the plural heading only."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Puts the heading in the plural, in memory."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
