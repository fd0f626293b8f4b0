"""Checks `.keras` files from strangers before Keras loads them.

Keras' safe mode refuses code that is stored in a file: lambdas. It lets a file name any
class of Keras, and in its older versions any function, and ask for any amount of memory.
"""

from __future__ import annotations

import io
import os
import zipfile
from typing import Any, Final

import h5py

from tfmot_sws.coding.architecture import check_keras_architecture
from tfmot_sws.coding.errors import CompressedFileError
from tfmot_sws.coding.limits import default_max_bytes
from tfmot_sws.coding.text import MAX_TEXT_BYTES

_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.weights.h5"


def check_keras_file(path: str | os.PathLike[str]) -> None:
    """Checks that a `.keras` file is as safe to load as a `.sws` file.

    It may name the same classes and functions, and ask for as much memory in proportion
    to its size.

    Raises:
        CompressedFileError: it is not safe, or no `.keras` file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, os.path.getsize(path))
    except (zipfile.BadZipFile, NotImplementedError, KeyError, RuntimeError) as error:
        raise CompressedFileError(
            f"'{path}' is no readable .keras file ({error}). Copy or download it again."
        ) from error


def _check_archive(archive: zipfile.ZipFile, num_bytes: int) -> None:
    limit = default_max_bytes(num_bytes)
    size = sum(member.file_size for member in archive.infolist())
    config = archive.getinfo(_CONFIG).file_size
    if size > limit or config > MAX_TEXT_BYTES:
        raise CompressedFileError(
            f"The .keras file of {num_bytes} bytes unfolds to {size} bytes, {config} of them "
            f"for the architecture; at most {limit} and {MAX_TEXT_BYTES} are read. Do not "
            "use it."
        )
    check_keras_architecture(archive.read(_CONFIG), limit)
    if _WEIGHTS in archive.namelist():
        _check_weights(archive.read(_WEIGHTS), limit)


def _check_weights(data: bytes, limit: int) -> None:
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            problem = _weights_problem(file, limit)
    except (OSError, RuntimeError, ValueError) as error:
        raise CompressedFileError(
            f"The weights in the .keras file are not readable ({error}). Copy or download "
            "it again."
        ) from error
    if problem:
        raise CompressedFileError(
            f"The weights in the .keras file are not loaded, since they have {problem}. Do not "
            "use the file."
        )


def _weights_problem(file: h5py.File, limit: int) -> str | None:
    links: list[str] = []
    sizes: list[int] = []

    def see_link(name: str, link: Any) -> None:
        if not isinstance(link, h5py.HardLink):
            links.append(name)

    def see(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            sizes.append(found.nbytes)
            if found.external or found.is_virtual:
                links.append(name)

    file.visititems_links(see_link)
    file.visititems(see)
    if links:
        return f"a link to another place, '{links[0][:60]}'"
    if sum(sizes) > limit:
        return f"{sum(sizes)} bytes of values, more than the {limit} that the file justifies"
    return None
