"""The parts of a file before and after: BatchNorm's four vectors, float32, and version 1.

Before: the vectors as training left them, coded as in version 1 of the format. After: what
stripping and `save_compressed` make today. The networks are not trained: their weights are set
to the means that the first mixture has, and BatchNorm has random statistics.
"""

import functools

import keras
import numpy as np

import tfmot_sws as sws
from benchmarks.real_networks import photos
from benchmarks.speed_cells import nets
from tfmot_sws.coding.architecture import describe
from tfmot_sws.coding.codebooks import assign_codebooks
from tfmot_sws.coding.deflate import deflate
from tfmot_sws.coding.plain import encode_plain
from tfmot_sws.coding.table import TensorEntry
from tfmot_sws.coding.text import shipped_sample

PARTS = ("architecture", "codebooks", "rest", "framing", "indices")
NETWORKS = {
    "LeNet-300-100": nets.lenet_300_100,
    "ResNet-20": nets.resnet_20,
    "depthwise-separable": photos.separable,
    "transformer": nets.transformer,
}
# Of each tensor's root mean square, the width that sets most weights to zero.
WIDTH = 0.6


def measure(paths, seed):
    """A row for each network: its name, and the bytes of each part before and after."""
    builders = {name: functools.partial(build, keras) for name, build in NETWORKS.items()}
    for path in paths:
        builders[path.stem] = functools.partial(keras.models.load_model, path, compile=False)
    rows = []
    for name, build in builders.items():
        keras.utils.set_random_seed(seed)
        before, after = (make_small(build, seed, few=few) for few in (False, True))
        rows.append({"name": name, "before": version_1_sizes(before), "after": sizes(after)})
    return rows


def make_small(build, seed, *, few):
    """A stripped model; with `few`, of few bits and with BatchNorm in two vectors."""
    keras.utils.set_random_seed(seed)
    model = randomise(build(), seed)
    shared = sws.apply_soft_weight_sharing(model, rounding=few)
    for group in shared.groups:
        spreads = [np.asarray(variable).std() for variable in group.variables]
        group.prior.widths.assign(WIDTH * np.array(spreads))
    shared.snap.assign(1.0)
    return sws.strip_soft_weight_sharing(shared, keep_statistics=not few)


def randomise(model, seed):
    """BatchNorm as after a training, where it is as it was made."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and not np.any(layer.moving_mean):
            size = layer.gamma.shape
            scales = [np.exp(s * generator.standard_normal(size)) for s in (0.25, 0.5)]
            shifts = [s * generator.standard_normal(size) for s in (0.4, 1.0)]
            layer.set_weights([scales[0], *shifts, scales[1]])
    return model


def sizes(model):
    """Bytes of each part of the file."""
    return sws.coded_sizes(model).parts


def version_1_sizes(model):
    """Bytes of each part as version 1 of the format coded them."""
    arrays = [np.asarray(variable) for variable in model.variables]
    codebooks, numbers = assign_codebooks(arrays)
    plain = [
        (TensorEntry(array.shape, array.dtype.name), array)
        for array, number in zip(arrays, numbers, strict=True)
        if number is None
    ]
    return {
        **sizes(model),
        "architecture": len(deflate(describe(model), known=shipped_sample())),
        "codebooks": sum(1 + (c.size > 31) + 4 * c.size for c in codebooks),
        "rest": len(encode_plain(plain)) if plain else 0,
    }


def to_cells(rows):
    """Headers and cells: two lines a network."""
    headers = ["network", "", *PARTS, "all but indices"]
    cells = []
    for row in rows:
        for when in ("before", "after"):
            parts = [row[when][part] for part in PARTS]
            numbers = [*parts, sum(parts[:-1])]
            cells.append([row["name"], when, *(f"{number:,}" for number in numbers)])
    return headers, cells
