"""Shows a rich table where there is no terminal: as plain text, and as HTML for notebooks."""

from __future__ import annotations

import io
from typing import Final

from rich.console import Console
from rich.table import Table

TEXT_WIDTH: Final = 120
_NO_LIMIT: Final = 1 << 16
# Without colours, so that text and background are those of a dark or light notebook.
_HTML: Final = (
    '<pre style="white-space: pre; overflow-x: auto; line-height: normal; '
    "font-family: Menlo, 'DejaVu Sans Mono', Consolas, 'Courier New', monospace\">{code}</pre>"
)


def width_of(table: Table) -> int:
    """Computes how many characters a table needs to show every cell on one line."""
    return Console(width=_NO_LIMIT).measure(table).maximum


def as_text(table: Table) -> str:
    """Renders a table as plain text of at most 120 characters a line."""
    console = Console(width=TEXT_WIDTH, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def as_html(table: Table) -> str:
    """Renders a table as HTML, in which names from files are escaped.

    Example:
        >>> table = Table("name")
        >>> table.add_row("<b>")
        >>> "&lt;b&gt;" in as_html(table)
        True
    """
    console = Console(
        width=width_of(table), record=True, file=io.StringIO(), force_jupyter=False
    )
    console.print(table)
    return console.export_html(inline_styles=True, code_format=_HTML)
