"""What is done to a pretrained network, each recipe with the settings that it tries.

A recipe takes a network, a seed, one of its settings and the arguments of the run, and
gives back figures: bytes, errors, seconds.
"""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import tfmot_sws as sws
from benchmarks import common, compression
from benchmarks.real_networks.quantized import ClusteredTraining, FitCodebooks
from tfmot_sws.gzip_size import gzip_size

# Training examples that calibrate int8 and check .tflite files.
SAMPLE = 256


class NotRunError(Exception):
    """A row that is not run, and why."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A way to a smaller network.

    Args:
        settings: by label, what `run` is to try, from the arguments of the run.
        run: figures from a network, a seed, a setting and the arguments.
    """

    settings: Callable[[Any], dict[str, Any]]
    run: Callable[..., dict[str, Any]]


def measure(network, model):
    """Errors of a finished model."""
    return {f"{split} error": network.metric(model, split) for split in ("validation", "test")}


def time_fit(network, model, seed, training=None, callbacks=()):
    """Compiles and trains a model; the seconds that took, tracing included."""
    start = time.perf_counter()
    network.compile(model, training)
    network.fit(model, training, seed=seed, callbacks=callbacks)
    return time.perf_counter() - start


# The dense network.


def run_pretrained(network, seed, _, args):
    """The network as all recipes find it; pretrains it where the cache does not hold it."""
    model = network.dense(seed, args.cache)
    return {"bytes": 4 * model.count_params(), **measure(network, model)}


def run_dense(network, seed, _, args):
    """The network trained on for as long as the others."""
    model = network.dense(seed, args.cache)
    seconds = time_fit(network, model, seed)
    return {
        "bytes": 4 * model.count_params(),
        **measure(network, model),
        "seconds": seconds,
    }


# Soft weight-sharing.


def sharing_settings(args):
    """All pairs of complexity weight and rate; `None` stands for the default."""
    pairs = itertools.product(args.complexity_weights or [None], args.rates or [None])
    return {_label(*pair): pair for pair in pairs}


def _label(complexity_weight, rate):
    named = {"tau": complexity_weight, "rate": rate}
    return ", ".join(f"{k} {v:g}" for k, v in named.items() if v is not None) or "default"


def run_sharing(network, seed, setting, args):
    """Soft weight-sharing as a user would call it; the size is that of the .sws file."""
    complexity_weight, rate = setting
    training = network.tuning
    if rate is not None:
        training = dataclasses.replace(training, rate=rate)
    settings = dict(args.settings)
    if complexity_weight is not None:
        settings["complexity_weight"] = complexity_weight
    shared = sws.apply_soft_weight_sharing(network.dense(seed, args.cache), **settings)
    seconds = time_fit(network, shared, seed, training, [sws.AnnealAndMerge()])
    small = sws.strip_soft_weight_sharing(shared)
    report = sws.compression_report(small)
    return {
        "bytes": common.count_sws_bytes(small),
        **measure(network, small),
        "seconds": seconds,
        "zeros": report.zero_share,
        **count_tflite_bytes(network, small),
    }


def count_tflite_bytes(network, small):
    """Bytes of the finished model's .tflite file, as it stands and under gzip."""
    sample = network.data()[0][0][:SAMPLE]
    try:
        tflite = sws.convert_to_tflite(small, "int8_codebook", sample=sample)
    except sws.ExportError as refusal:
        return {"tflite": str(refusal)}
    return {"tflite": len(tflite), "tflite under gzip": gzip_size(tflite)}


# Clustering without a prior.


def run_quantized(network, seed, num_values, args):
    """Quantization-aware training with a few values a layer, and the .sws file of it."""
    inner = network.dense(seed, args.cache)
    model = ClusteredTraining(inner, num_values)
    seconds = time_fit(network, model, seed, callbacks=[FitCodebooks()])
    model.settle()
    return {
        "bytes": common.count_sws_bytes(inner),
        **measure(network, inner),
        "seconds": seconds,
    }


# What others have.


def run_tfmot(network, seed, sparsity, args):
    """tfmot's pipeline in a process of its own, for it changes what tf.keras is."""
    # The cache must hold the network, which the process cannot find otherwise.
    network.dense(seed, args.cache)
    job = {
        "network": network.name.removesuffix("-short"),
        "seed": seed,
        "sparsity": sparsity,
        "examples": args.examples,
        "epochs": network.tuning.epochs,
        "cache": str(args.cache.resolve()),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        done = common.run_module(
            "real_networks.tfmot_twin", path, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
        return json.loads(path.read_text())["figures"]


def run_int8(network, seed, _, args):
    """LiteRT's int8 of the pretrained network, calibrated on training data, under gzip."""
    dense = network.dense(seed, args.cache)
    sample = network.data()[0][0][:SAMPLE]
    # Taken as it comes: the table shows what it costs.
    tflite = sws.convert_to_tflite(
        dense, "int8", representative_data=sample, sample=sample, tolerance=1e9
    )
    errors = {
        f"{split} error": network.judge(lambda x: sws.predict_tflite(tflite, x), split)
        for split in ("validation", "test")
    }
    return {"bytes": gzip_size(tflite), "tflite": len(tflite), **errors}


def nncodec_settings(args):
    """The quantization parameters; one row says so where there is no NNCodec."""
    if not args.nncodec:
        return {"all": None}
    # Every second: a process has to start for each.
    return {f"qp {qp}": qp for qp in compression.NNCODEC_QPS[::2]}


def run_nncodec(network, seed, qp, args):
    """NNCodec on the pretrained network at one quantization parameter; weights only."""
    if not args.nncodec:
        raise NotRunError("needs --nncodec, the python of an environment that has it")
    dense = network.dense(seed, args.cache)
    try:
        (record,) = compression.try_nncodec(
            args.nncodec, dense, [qp], lambda model: measure(network, model)
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotRunError(f"NNCodec: {error}") from error
    return record


# Comes first, whatever is asked for; where it fails nothing else can be run.
PRETRAINED = Recipe(lambda _: {"as pretrained": None}, run_pretrained)
RECIPES = {
    "dense": Recipe(lambda _: {"trained on": None}, run_dense),
    "sws": Recipe(sharing_settings, run_sharing),
    "tfmot": Recipe(
        lambda args: {f"sparsity {value:g}": value for value in args.sparsities}, run_tfmot
    ),
    "qat": Recipe(
        lambda args: {f"{number} values": number for number in args.values}, run_quantized
    ),
    "int8": Recipe(lambda _: {"calibrated": None}, run_int8),
    "nncodec": Recipe(nncodec_settings, run_nncodec),
}
