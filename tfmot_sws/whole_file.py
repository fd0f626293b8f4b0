"""Writes files whole or not at all; everything in the package that writes a file uses it.

A reader of the target sees the old file or the complete new one, even after a power cut:
the new bytes are on the disk before the rename, and a rename within one folder is atomic.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

# What may be written to, or read from: a path, or a file opened in binary mode.
FilePath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
PathOrFile = FilePath | IO[bytes]

_PREFIX: Final = ".tfmot-sws-"


@contextlib.contextmanager
def replacing(path: FilePath) -> Iterator[pathlib.Path]:
    """Gives a path to write to, and renames that file to `path` at the end of the block.

    If the block raises, an old file at `path` stays as it was, and nothing is left behind.
    A symbolic link stays one: the file that it points to is replaced. The new file has the
    mode of the old one.

    Args:
        path: the file to write. Its folder must exist.

    Returns:
        A context that gives a path of the same file name, in a temporary folder beside
        the target. Open a file there as usual: if it is a new one, it gets the mode that
        the umask gives.

    Raises:
        OSError: the path is a folder or a device, its folder does not exist or cannot be
            written to, or the disk is full. The error names `path`.

    Example:
        >>> folder = tempfile.TemporaryDirectory()
        >>> target = pathlib.Path(folder.name) / "text.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("new")
        >>> target.read_text()
        'new'
        >>> folder.cleanup()
    """
    target = _target(path)
    # A folder, so that the file can keep its name: Keras goes by the suffix.
    with (
        _errors_name(_text(path), in_place_of=target.parent / _PREFIX),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=_PREFIX) as folder,
    ):
        temporary = pathlib.Path(folder) / target.name
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)


def write_whole(target: PathOrFile, pieces: Iterable[bytes]) -> None:
    """Writes bytes to a path, whole or not at all, or to a file that is open already."""
    if not isinstance(target, str | bytes | os.PathLike):
        target.writelines(pieces)
        return
    with replacing(target) as temporary, temporary.open("wb") as file:
        file.writelines(pieces)


def check_writable(target: Any) -> None:
    """Checks a path or a file that is written to later, before any work.

    Raises:
        TypeError: it is neither a path nor a file opened in binary mode.
        OSError: a file cannot be written there, for a reason that shows by now.
    """
    if not isinstance(target, str | bytes | os.PathLike):
        _check_binary(target, "write", "wb")
    else:
        _target(target)


def read_beginning_with(source: Any, magic: bytes) -> bytes:
    """Returns all bytes of a file, or just its beginning if that is another than expected.

    Args:
        source: a path, or a file opened in binary mode.
        magic: what the file should begin with.

    Raises:
        TypeError: it is neither a path nor a file opened in binary mode.
        OSError: the file cannot be read.
    """
    if not isinstance(source, str | bytes | os.PathLike):
        _check_binary(source, "read", "rb")
        return bytes(source.read())
    with open(source, "rb") as file:
        beginning = file.read(len(magic))
        return beginning + file.read() if beginning == magic else beginning


def name_of(target: Any) -> str:
    """The name of a path or of an open file, for messages."""
    is_path = isinstance(target, str | bytes | os.PathLike)
    return _text(target) if is_path else str(getattr(target, "name", type(target).__name__))


def _check_binary(file: Any, method: str, mode: str) -> None:
    if not callable(getattr(file, method, None)):
        raise TypeError(
            "Expected a path, or a file opened in binary mode; received "
            f"{type(file).__name__} ({str(file)[:60]})."
        )
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"The file is opened as text. Open it with mode '{mode}'.")


def _text(path: Any) -> str:
    return os.fsdecode(path)


def _target(path: Any) -> pathlib.Path:
    """The regular file that a path leads to, whether or not it exists."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"Expected a path; received {type(path).__name__} ({str(path)[:60]}).")
    name = _text(path)
    target = pathlib.Path(os.path.realpath(name))
    if not name or name.endswith(("/", os.sep)) or target.is_dir():
        problem = "expected a file, not a folder" if name else "the path is empty"
        raise IsADirectoryError(errno.EISDIR, problem, name)
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "expected a file, not a device: pass an open file", name)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(pathlib.Path(name).parent))
    return target


@contextlib.contextmanager
def _errors_name(name: str, *, in_place_of: pathlib.Path) -> Iterator[None]:
    """Has errors name the file of the user, not the temporary one in a hidden folder."""
    try:
        yield
    except OSError as error:
        if str(error.filename).startswith(str(in_place_of)):
            error.filename, error.filename2 = name, None
        raise
