"""Reads the arrays of a `.sws` file without Keras, as on a phone or a small computer.

NumPy is enough. Files with a large tensor (whose indices took the bulk coder) need
`constriction` as well, and variables of dtype bfloat16 need `ml_dtypes`.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from numpy.typing import NDArray

from tfmot_sws.coding.container import parse_sections, version_of
from tfmot_sws.coding.tensors import TensorReader


def read_arrays(path: str | os.PathLike[str]) -> list[NDArray[Any]]:
    """Reads the variables of a `.sws` file, bit for bit, without building a model.

    Use it where Keras is not installed, in a program that has the network's code itself.

    Args:
        path: a file that `save_compressed` wrote.

    Returns:
        The values of `model.variables`, in their order.

    Raises:
        CompressedFileError: the file is damaged, hostile, or of another version.
        ImportError: the file needs a package that is not installed; see above.

    Example:
        >>> import keras, numpy as np, tempfile, tfmot_sws as sws
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sws.save_compressed(model, f"{folder}/model.sws")
        ...     kernel, bias = read_arrays(f"{folder}/model.sws")
        >>> np.array_equal(kernel, model.layers[0].kernel)
        True
    """
    data = pathlib.Path(path).read_bytes()
    reader = TensorReader(parse_sections(data), len(data), version_of(data))
    return [tensor.array() for tensor in reader.read()]
