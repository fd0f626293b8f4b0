"""Writes files whole or not at all; everything in the package that writes a file uses it.

A reader of the target sees the old file or the complete new one, even after a power cut:
the new bytes are on the disk before the rename, and a rename within one folder is atomic.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a path to write to, and renames that file to `path` at the end of the block.

    If the block raises, an old file at `path` stays as it was, and nothing is left behind.

    Args:
        path: the file to write. Its folder must exist.

    Returns:
        A context that gives a path of the same file name, in a temporary folder beside
        the target. Open a file there as usual: it gets the mode that the umask gives.

    Raises:
        OSError: the folder does not exist or cannot be written to, or the disk is full.

    Example:
        >>> folder = tempfile.TemporaryDirectory()
        >>> target = pathlib.Path(folder.name) / "text.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("new")
        >>> target.read_text()
        'new'
        >>> folder.cleanup()
    """
    target = pathlib.Path(path)
    # A folder, so that the file can keep its name: Keras goes by the suffix.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tfmot-sws-") as folder:
        temporary = pathlib.Path(folder) / target.name
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
