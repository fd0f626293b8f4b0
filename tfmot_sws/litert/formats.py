"""Defines the formats of .tflite files: one record each in `FORMATS`.

The names and descriptions of formats are written here alone. A new format is a function and
a record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfmot_sws.advice import warn
from tfmot_sws.arguments import check_kind
from tfmot_sws.litert import tflm
from tfmot_sws.litert.converter import (
    ExportError,
    convert,
    with_batch_of_one,
    with_input_names_of,
)
from tfmot_sws.litert.file import has_loop, parse, stored_tensors
from tfmot_sws.litert.int8_grid import place_clustered_on_int8_grid, place_on_int8_grid
from tfmot_sws.litert.integer_weights import INT8, Storage, smallest_storage, store_as_integers
from tfmot_sws.litert.integers import Integers, find_integers
from tfmot_sws.litert.interpreter import by_input_name, make_up_inputs, run_tflite
from tfmot_sws.litert.shared_integers import share_integers
from tfmot_sws.litert.verification import greatest_difference
from tfmot_sws.models.libraries import view_of
from tfmot_sws.models.rebuild import clone_with, finalize, unroll_recurrences
from tfmot_sws.models.selection import is_kernel

# How many examples calibrate "int8" and check the result.
_CALIBRATION_EXAMPLES: Final = 256
# LiteRT adds in another order than Keras does, so even exact formats differ by rounding, which
# a deep network makes larger: an EfficientNet with fresh weights to 2e-4.
_ROUNDING: Final = 1e-3
# Integers times steps are the weights up to the rounding of a folded BatchNorm.
_SAME: Final = 1e-5
# A smaller tensor that stays float32 costs too few bytes for a warning.
_WORTH_A_WARNING: Final = 1024
# A smaller kernel stays float32, because it takes fewer bytes than an operator more.
_FEW: Final = 64
# A tenth of the signal's power.
_COARSE: Final = 0.32


@dataclasses.dataclass(frozen=True)
class Job:
    """The arguments of one export; see `convert_to_tflite`.

    Args:
        model: a plain model.
        representative_data: arrays in the structure that the model takes, or `None`.
        sample: inputs for the check of the outputs, of the same structure, or `None`.
    """

    model: keras.Model
    representative_data: Any
    sample: Any


@dataclasses.dataclass(frozen=True)
class Format:
    """One format of .tflite file.

    Args:
        description: how it stores weights, for users.
        make: converts a model.
        tolerance: how much outputs may differ from those of Keras.
        measure: the field of `Verification` that the tolerance limits. "difference" for
            formats that are exact. "relative_error" for those that are not: there, the greatest
            difference is that of one example near a boundary, and says nothing.
        advice: what helps when a file is refused.
        check: raises an error if the export cannot work, before anything is computed.
        keeps_clusters_behind_batch_norm: whether clustered kernels have few distinct
            values in the file even if a BatchNorm is folded into them.
    """

    description: str
    make: Callable[[Job], bytes]
    tolerance: float
    measure: str = "difference"
    advice: str = ""
    check: Callable[[Job], object] = lambda _: None
    keeps_clusters_behind_batch_norm: bool = False


def _float32(job: Job) -> bytes:
    return convert(job.model)


def _float16(job: Job) -> bytes:
    import tensorflow as tf

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    return convert(job.model, configure)


def _sparse(job: Job) -> bytes:
    import tensorflow as tf

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]

    dense = convert(job.model)
    try:
        sparse = convert(job.model, configure)
    except ExportError:
        # Of a matrix that is an embedding and a kernel at once.
        _warn_dense(job.model, "LiteRT's converter cannot store it sparse")
        return dense
    if _num_nonzero(sparse) != _num_nonzero(dense):
        # LiteRT 2.3 does so if the length of a matrix's rows is no multiple of 4.
        _warn_dense(job.model, "LiteRT's converter would lose some of its weights")
        return dense
    if len(sparse) >= len(dense):
        shares = ", ".join(f"{t.name} {t.zeros / t.size:.0%}" for t in stored_tensors(dense))
        _warn_dense(
            job.model,
            f"{len(sparse):,} bytes sparse, {len(dense):,} dense. Share of zeros: {shares}; "
            "about two thirds of a large tensor must be zero",
        )
        return dense
    return sparse


def _num_nonzero(tflite: bytes) -> int:
    return sum(t.size - t.zeros for t in stored_tensors(tflite))


def _warn_dense(model: keras.Model, why: str) -> None:
    warn(f"The float32 file of '{model.name}' is returned, not a sparse one: {why}.")


def _int8_codebook(job: Job) -> bytes:
    return _as_integers(job, place_on_int8_grid(job.model), lambda _: INT8)


def _int4_codebook(job: Job) -> bytes:
    kernels = [v for v in view_of(job.model).variables if is_kernel(v)]
    wide = [v.path for v in kernels if not _fits_int4(v)]
    if wide:
        raise ExportError(
            f"The values of {wide} are not integers of -7 to 7 times a step, so 4 bits cannot "
            "hold them. Nothing was written. Train with apply_soft_weight_sharing(model, "
            "codebook='uniform'), or take 'smallest', which stores such kernels as int8 and "
            "the others in 4 bits."
        )
    # A constant that is no kernel may need 8 bits.
    return _as_integers(job, job.model, lambda found: Storage(max(4, found.bits)), _find_narrow)


def _find_narrow(values: NDArray[np.float32]) -> Integers | None:
    """Finds integers of 4 bits where there are some.

    Factors of a folded BatchNorm that are integers times a step themselves, as after
    stripping, can put a whole kernel on one grid of 8 bits.
    """
    narrow = find_integers(values, max_bits=4)
    return find_integers(values) if narrow is None else narrow


def _fits_int4(variable: Any) -> bool:
    values = ops.convert_to_numpy(variable).astype(np.float32).reshape(-1)
    # So few entries stay float32 anyway.
    if values.size <= _FEW:
        return True
    found = find_integers(values)
    return found is not None and found.bits <= 4


def _smallest(job: Job) -> bytes:
    return _as_integers(job, place_on_int8_grid(job.model), smallest_storage)


def _as_integers(
    job: Job,
    model: keras.Model,
    storage: Callable[[Integers], Storage],
    find: Callable[[NDArray[np.float32]], Integers | None] = find_integers,
) -> bytes:
    """Converts a model whose kernels are integers times steps, and stores these integers."""
    exact = convert(with_input_names_of(model, job.model))
    off_grid: list[str] = []

    def choose(name: str, values: NDArray[np.float32]) -> Integers | None:
        found = find(values)
        if found is None and values.size >= _WORTH_A_WARNING:
            off_grid.append(name)
        return found

    small = store_as_integers(exact, choose, storage)
    if off_grid:
        warn(
            f"Tensors {off_grid} do not lie on an int8 grid, because the model or the "
            "converter computes them from its kernels. They stay float32.",
        )
    _check_equal(small, exact, job)
    return small


def _check_equal(small: bytes, exact: bytes, job: Job) -> None:
    """Raises unless a file of integers computes what its float32 file computes."""
    inputs = make_up_inputs(exact, job.model) if job.sample is None else job.sample
    named = by_input_name(inputs, job.model)
    difference = greatest_difference(run_tflite(small, named), run_tflite(exact, named))
    if not difference <= _SAME:
        raise ExportError(
            f"Outputs of the file of integers of '{job.model.name}' differ by {difference:.1e} "
            f"from those of its float32 file; at most {_SAME:.0e} is expected. Nothing was "
            "written. Take 'float32', 'float16' or 'sparse'."
        )


def _need_representative_data(job: Job) -> None:
    if job.representative_data is None:
        raise ValueError(
            "weights='int8' needs representative_data=, typical inputs from which the range "
            "of each activation is learned, such as x_train[:256]."
        )


def _int8(job: Job) -> bytes:
    import tensorflow as tf

    def examples() -> Iterator[Any]:
        named = by_input_name(job.representative_data, job.model)
        arrays = named if isinstance(named, dict) else {"": keras.tree.flatten(named)[0]}
        for i in range(len(next(iter(arrays.values())))):
            example = {name: array[i : i + 1] for name, array in arrays.items()}
            yield example if isinstance(named, dict) else list(example.values())

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = examples

    named = with_input_names_of(place_clustered_on_int8_grid(job.model), job.model)
    placed, exact = _without_loops(named)
    tflite = share_integers(convert(placed, configure), exact)
    floats = [t for t in stored_tensors(tflite) if t.dtype == "float32" and len(t.shape) > 1]
    if floats:
        listed = ", ".join(f"{t.name} {t.shape}" for t in floats)
        warn(
            f"The int8 file of '{job.model.name}' keeps {len(floats)} tensors in float32, "
            f"whose operations LiteRT cannot quantize (as Conv3D): {listed}.",
        )
    return tflite


def _without_loops(model: keras.Model) -> tuple[keras.Model, bytes]:
    """A model and its float32 file; unrolls recurrences, as calibrating a loop crashes."""
    exact = convert(model)
    if not has_loop(parse(exact)):
        return model, exact
    unrolled = clone_with(model, unroll_recurrences)
    unrolled.set_weights(model.get_weights())
    finalize(unrolled)
    unrolled = with_input_names_of(unrolled, model)
    exact = convert(unrolled)
    if has_loop(parse(exact)):
        raise ExportError(
            f"Model '{model.name}' has a loop that cannot be unrolled, which LiteRT cannot "
            "quantize to integers. Take 'int8_codebook'."
        )
    return unrolled, exact


def _tflm(job: Job) -> bytes:
    exact = convert(with_batch_of_one(job.model))
    small = tflm.compress(exact)
    inputs = make_up_inputs(exact, job.model) if job.sample is None else job.sample
    named = by_input_name(inputs, job.model)
    difference = greatest_difference(tflm.predict(small, named), tflm.predict(exact, named))
    if difference != 0:
        raise ExportError(
            f"Look-up tables change the outputs of '{job.model.name}' by {difference:.1e} in "
            "TensorFlow Lite Micro; they should be equal. Nothing was written."
        )
    return small


def first_examples(data: Any) -> Any:
    """Returns the first 256 examples of arrays or of an iterable of batches, as arrays.

    Raises:
        ValueError: the iterable has no batches.
    """
    if hasattr(data, "shape") or isinstance(data, list | tuple | dict):
        return keras.tree.map_structure(
            lambda array: np.asarray(array)[:_CALIBRATION_EXAMPLES], data
        )
    kind = type(None) if isinstance(data, str | bytes) else Iterable
    check_kind("representative_data", data, kind, "arrays, or an iterable of batches")
    batches, total = [], 0
    for batch in data:
        inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]
        batches.append(keras.tree.map_structure(np.asarray, inputs))
        total += len(keras.tree.flatten(inputs)[0])
        if total >= _CALIBRATION_EXAMPLES:
            break
    if not batches:
        raise ValueError("representative_data gave no batches; it may have been used up.")
    joined = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    return first_examples(joined)


FORMATS: Final = {
    "float32": Format(
        "Every weight as it is. As large as the dense model, until the file is zipped.",
        _float32,
        tolerance=_ROUNDING,
    ),
    "float16": Format(
        "Half the size.",
        _float16,
        tolerance=0.05,
        measure="relative_error",
        advice="take 'float32' or 'sparse', which are exact",
    ),
    "int8_codebook": Format(
        "A quarter of the size. Values move to a grid of 255 steps (`place_on_int8_grid`), are "
        "stored as int8, and are computed with as float32. Outputs equal those of the float32 "
        "file of the moved weights. Where a BatchNorm is folded, each channel has a step of "
        "its own.",
        _int8_codebook,
        tolerance=_COARSE,
        measure="relative_error",
        advice="take 'sparse' or 'float16', which move no weight to a grid",
        keeps_clusters_behind_batch_norm=True,
    ),
    "int4_codebook": Format(
        "An eighth of the size, for kernels whose values are integers of -7 to 7 times a step, "
        "as codebook='uniform' trains them; others are refused. Exact. LiteRT computes a dense "
        "layer in about twice the time.",
        _int4_codebook,
        tolerance=_ROUNDING,
        keeps_clusters_behind_batch_norm=True,
    ),
    "sparse": Format(
        "Only the non-zero entries of tensors with many zeros. If that does not make the file "
        "smaller, a warning says so, and the float32 file is returned.",
        _sparse,
        tolerance=_ROUNDING,
    ),
    "smallest": Format(
        "Each tensor in the fewest bytes: as int8, as integers of 4 or 2 bits where these "
        "hold its values, or only the non-zero ones. Values move as for int8_codebook.",
        _smallest,
        tolerance=_COARSE,
        measure="relative_error",
        advice="take 'sparse' or 'float16', which move no weight to a grid",
        keeps_clusters_behind_batch_norm=True,
    ),
    "int8": Format(
        "A quarter of the size, and integer arithmetic; inputs and outputs are float32. Values "
        "of clustered kernels move to a grid of 255 steps, and the channels share integers. "
        "Needs `representative_data`.",
        _int8,
        tolerance=_COARSE,
        measure="relative_error",
        advice="pass more representative_data, as typical as possible, or take "
        "'int8_codebook', which keeps activations in float",
        check=_need_representative_data,
        keeps_clusters_behind_batch_norm=True,
    ),
    "tflm": Format(
        "Look-up tables, for TensorFlow Lite Micro only; the batch is 1. Needs the package "
        "tflite-micro: `pip install 'tfmot-sws[tflm]'`.",
        _tflm,
        tolerance=_ROUNDING,
        check=lambda _: tflm.package(),
    ),
}
