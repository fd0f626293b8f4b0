"""Shows text from files as text: nothing in it moves the cursor, colours or hides a line."""

from __future__ import annotations

from typing import Final

from rich.text import Text

_LONGEST: Final = 300


def plain(text: str) -> str:
    r"""Escapes all characters that are not printed as themselves; cuts a very long text.

    Control characters, newlines, marks that turn the direction of writing, and half
    surrogates are shown by their codes.

    Example:
        >>> plain("dense\x1b[2J\u202e\n")
        'dense\\x1b[2J\\u202e\\n'
    """
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_LONGEST]
    )
    return escaped + "..." if len(text) > _LONGEST else escaped


def cell(text: str) -> Text:
    """A cell of a table, in which rich's markup has no effect either."""
    return Text(plain(text))
