"""A stated size: read, refused where no training can reach it, and reached."""

import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tf_keras
from processes import output_of

import tfmot_sws as sws
from tfmot_sws.prior.survival import least_weights
from tfmot_sws.training.file_meter import FileMeter
from tfmot_sws.training.size_control import SizeControl, gain_taken_over
from tfmot_sws.training.size_target import ControlState, FileSize, SizeTarget
from tfmot_sws.training.strip import stripped_values
from tfmot_sws.training.width_search import search_width

LIBRARIES = {"keras": keras, "tf_keras": tf_keras}


def network(library=keras, units=40):
    """2,050 weights and four vectors of a BatchNorm."""
    layers = library.layers
    library.utils.set_random_seed(3)
    return library.Sequential(
        [
            # A name that counts on with each model would change the size of the file.
            layers.Input((32,), name="input"),
            layers.Dense(units, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dense(10, name="last"),
        ],
        name="net",
    )


def make_data():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((128, 32)).astype("float32")
    return x, (x @ generator.standard_normal((32, 10))).astype("float32")


@pytest.fixture
def data():
    return make_data()


def fit(shared, data, epochs=10, **kwargs):
    return shared.fit(
        *data,
        epochs=epochs,
        batch_size=16,
        verbose=0,
        **{"callbacks": [sws.AnnealAndMerge()], **kwargs},
    )


def compiled(model, library=keras, **settings):
    shared = sws.apply_soft_weight_sharing(model, **settings)
    shared.compile(library.optimizers.Adam(3e-3), "mse", jit_compile=False)
    return shared


# What can be asked for.


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50 kB", 50_000),
        ("50kb", 50_000),
        ("64 KiB", 65_536),
        (" 1.5 MB ", 1_500_000),
        ("2 mib", 2 << 20),
        ("800 B", 800),
        ("800 bytes", 800),
        ("800", 800),
        (800, 800),
        (np.float32(800), 800),
    ],
)
def test_sizes_may_be_text(text, size):
    target = SizeTarget.of(None, text, None)
    assert target.num_bytes(10**6, FileSize(900, 100), 1000) == size


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("target_ratio", [1, 0, -3, math.inf, math.nan, "20x", True, [20]]),
        ("target_size", [0, -5, math.nan, math.inf, "", "kB", "5 GB", "1e3", "-5 kB", False]),
        ("target_bits", [0, 8.5, -1, math.nan, "1", True]),
    ],
)
def test_bad_targets_are_refused(name, values):
    model = network()
    for value in values:
        with pytest.raises(ValueError, match=f"{name}.*received"):
            sws.apply_soft_weight_sharing(model, **{name: value})
    # Nothing has happened to the model.
    assert not hasattr(model, "sharing")


def test_one_target_only():
    with pytest.raises(ValueError, match="one target only; received target_ratio=20, target_b"):
        sws.apply_soft_weight_sharing(network(), target_ratio=20, target_bits=1)
    with pytest.raises(ValueError, match="target_ratio=20 decides about complexity_weight"):
        sws.apply_soft_weight_sharing(network(), target_ratio=20, complexity_weight=0.1)


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_impossible_sizes_are_refused_with_the_limit(library):
    model = network(library)
    shared = sws.apply_soft_weight_sharing(sparsest(model))
    shared.snap.assign(1.0)
    smallest = sws.coded_sizes(sws.strip_soft_weight_sharing(shared)).total
    with pytest.raises(ValueError, match=r"Ask for more than \d+ bytes\.") as refusal:
        sws.apply_soft_weight_sharing(model, target_size=smallest // 2)
    limit = int(re.search(r"more than (\d+) bytes\.", str(refusal.value))[1])
    assert limit == smallest
    with pytest.raises(ValueError, match=rf"Ask for more than {limit} bytes\."):
        sws.apply_soft_weight_sharing(model, target_size=limit)
    with pytest.raises(ValueError, match="which is a ratio of"):
        sws.apply_soft_weight_sharing(model, target_ratio=1000)
    with pytest.raises(ValueError, match=r"8 bits a shared weight\. Ask for less than"):
        sws.apply_soft_weight_sharing(model, target_ratio=1.5)
    # A size that is hardly larger is told, for a training may miss it.
    for size in (limit + 1, 1.09 * limit):
        with pytest.warns(sws.SoftWeightSharingWarning, match=f"can become takes {limit}"):
            sws.apply_soft_weight_sharing(model, target_size=size)
    sws.apply_soft_weight_sharing(model, target_size=1.11 * limit)


def test_frozen_layers_do_not_make_a_stated_size_near():
    layers = [keras.layers.Dense(64, activation="relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(2)])
    model.layers[0].trainable = False
    # The frozen kernel is nearly all of the file, and yet most of a bit is left to a weight.
    sws.apply_soft_weight_sharing(model, target_bits=0.9)


def sparsest(model):
    """A copy whose kernels have the root of their size in ones, and whose biases are zero."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(
        [
            sparse(w) if "dense" in type(layer).__name__.lower() else w
            for layer in model.layers
            for w in layer.get_weights()
        ]
    )
    return copy


def sparse(weights):
    ones = np.zeros_like(weights)
    if weights.ndim > 1:
        order = np.argsort(-np.abs(weights), axis=None)
        ones.flat[order[: math.isqrt(weights.size)]] = 1
    return ones


def test_more_bits_take_more_components():
    def components(**target):
        shared = sws.apply_soft_weight_sharing(network(), **target)
        return shared.groups[0].prior.num_components

    found = [components(target_bits=bits) for bits in (0.5, 1.9, 2.5, 3.5, 8)]
    assert found == [16, 16, 64, 128, 256]
    assert components(target_bits=4.5, num_components=20) == 20


def test_a_layer_has_no_target():
    with pytest.raises(ValueError, match="whole model; received layer 'alone'"):
        sws.apply_soft_weight_sharing(
            tf_keras.layers.Dense(3, name="alone"), train_size=10, target_ratio=20
        )


# What is reached.


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
@pytest.mark.parametrize("target", [{"target_size": "1.1 kB"}, {"target_bits": 1.5}])
def test_the_file_has_the_size(library, target, data, tmp_path):
    shared = compiled(network(library), library, **target)
    history = fit(shared, data).history
    small = sws.strip_soft_weight_sharing(shared)
    sws.save_compressed(small, tmp_path / "small.sws")
    size = (tmp_path / "small.sws").stat().st_size
    asked = 1100 if "target_size" in target else asked_by_bits(small)
    assert size == pytest.approx(asked, rel=0.03)
    dense = sws.compression_report(small).dense_bytes
    assert history["target_ratio"][-1] == pytest.approx(dense / asked, rel=0.01)
    assert history["compression_ratio"][-1] == pytest.approx(dense / size, rel=0.02)


def test_counts_at_other_widths_do_not_depend_on_kernels_that_were_narrowed():
    shared = compiled(network(), target_size=1000)
    sharing = shared.sharing
    before = sharing.counts_at(3.0)
    for group in sharing.groups:
        group.prior.narrow(np.full(len(group.variables), 0.2))
    after = sharing.counts_at(3.0)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1)
    # What the narrowing has given back is seen by those who ask for widths as they are.
    narrowed = sum(of_group[:, 0].sum() for of_group in sharing.tensor_counts())
    assert narrowed < sum(of_group[:, 0].sum() for of_group in sharing.counts_at(1.0))


def test_near_the_smallest_file_kernels_keep_few_weights_and_their_components(data):
    """A size below what training can reach: widths fought the rule that keeps kernels alive."""
    shared = compiled(network(units=100), target_size=250)
    priors, widths = [group.prior for group in shared.sharing.groups], []
    after_validation = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: widths.append([p.widths.value.numpy() for p in priors])
    )
    with pytest.warns(sws.SoftWeightSharingWarning, match="target_size=250 asks for"):
        fit(shared, data, callbacks=[sws.AnnealAndMerge(), after_validation])
    # What was validated last is what will be stripped.
    for prior, validated in zip(priors, widths[-1], strict=True):
        np.testing.assert_array_equal(prior.widths.value, validated)
    for group, of_tensors in zip(
        shared.sharing.groups, shared.sharing.tensor_counts(), strict=True
    ):
        others = of_tensors[0, 1:].sum()
        least = least_weights(group.variables[0].shape[0] * group.variables[0].shape[1])
        # The last step comes after the last count, and may take one or two.
        assert 0.9 * least <= others <= 1.5 * least
        assert group.prior.alive_slots.size > 1


def asked_by_bits(small, bits=1.5):
    report = sws.compression_report(small)
    shared = [t for t in report.tensors if "norm" not in t.path]
    parts = report.coded
    spent = parts.codebooks + sum(t.coded_bytes for t in shared)
    return parts.total - spent + bits * sum(t.size for t in shared) / 8


@pytest.mark.slow
def test_the_estimate_is_near_the_file(data, monkeypatch):
    """Between two measurements, at every update of a training of few steps.

    Where it decides, after the planned size has fallen to the end, it is nearer.
    """
    ratios = {}
    update = SizeControl.update

    def compare(self, fraction, rule_end):
        update(self, fraction, rule_end)
        if fraction > 0.06:
            size = self._meter.measure(
                stripped_values(self._model, keep_statistics=False)
            ).total
            ratios[fraction] = self._sharing.control.size / size

    monkeypatch.setattr(SizeControl, "update", compare)
    fit(compiled(network(), target_size=1100), data, epochs=6)
    assert len(ratios) > 30
    np.testing.assert_allclose(list(ratios.values()), 1.0, atol=0.12)
    late = [ratio for fraction, ratio in ratios.items() if fraction > 0.6]
    np.testing.assert_allclose(late, 1.0, atol=0.02)


def test_a_target_that_is_missed_is_told(data):
    """One component beside zero cannot take six bits a weight."""
    shared = compiled(network(), target_bits=6, num_components=2)
    with pytest.warns(UserWarning, match=r"target_bits=6 asks for .* larger num_components"):
        fit(shared, data, epochs=2)
    with pytest.warns(UserWarning, match="target_bits=6 asks for"):
        sws.strip_soft_weight_sharing(shared)


RESUMED = """
import os, signal, sys
import keras, numpy as np
from test_targets import compiled, fit, make_data, network, stripped_values, sws

folder, *place = sys.argv[1:]

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if [str(self.epoch), str(batch)] == place:
            os.kill(os.getpid(), signal.SIGKILL)

shared = compiled(network(), target_size=1100)
backup = keras.callbacks.BackupAndRestore(folder)
callbacks = [sws.AnnealAndMerge(), backup, Kill()]
fit(shared, make_data(), epochs=5, callbacks=callbacks, shuffle=False)
np.savez(folder + ".npz", *stripped_values(shared), np.array(shared.sharing.control))
"""


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_the_same(tmp_path):
    """In the first epoch, within a later one, and between two: size and values are the same."""
    tests = pathlib.Path(__file__).parent
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}

    def start(name, *place):
        command = [sys.executable, "-c", RESUMED, str(tmp_path / name), *map(str, place)]
        return subprocess.Popen(command, cwd=tests, env=environment)

    whole = start("whole")
    for place in ((0, 5), (1, 3), (4, 0)):
        assert start("killed", *place).wait() == -signal.SIGKILL
    assert start("killed").wait() == whole.wait() == 0
    with np.load(tmp_path / "killed.npz") as found, np.load(tmp_path / "whole.npz") as expected:
        assert len(found.files) == len(expected.files) > 5
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_target_is_saved_and_loaded(tmp_path):
    shared = sws.apply_soft_weight_sharing(network(), target_size="1.4 kB")
    shared.sharing.control = shared.sharing.control._replace(log_gain=0.5, others=300.0)
    shared.save(tmp_path / "shared.keras")
    loaded = keras.models.load_model(tmp_path / "shared.keras")
    assert loaded.sharing.target == SizeTarget(target_size=1400)
    assert loaded.sharing.control == shared.sharing.control


@pytest.mark.parametrize(
    "measure",
    [
        lambda width: -0.7 * (width - 0.4),
        lambda width: -0.1 * (width + 1.9),
        # Sizes of a LeNet-300-100 of which the weights had gathered: 0.05 apart, they halve.
        lambda width: float(
            np.interp(
                width, [-0.5, -0.1, 0.0, 0.05, 0.1, 0.3], [0.9, 0.67, 0.3, -0.27, -0.7, -1.4]
            )
        ),
        lambda width: float(-np.tanh(40.0 * (width - 0.6))),
        lambda width: float(-np.tanh(40.0 * (width + 0.6))),
        lambda width: float(-np.clip(200.0 * (width + 0.6), -1.0, 1.0)),
    ],
    ids=["usual", "flat", "gathered", "cliff above", "cliff below", "plateaus"],
)
def test_the_widths_are_found(measure):
    errors = search(measure, bound=3.0)
    assert abs(errors[-1][1]) < 2e-3
    assert len(errors) <= 14


def search(measure, start=0.0, bound=2.0):
    """The widths that are tried, each with its error."""
    tried = []

    def error_at(width):
        tried.append((width, measure(width)))
        return tried[-1][1]

    search_width(error_at, start, bound, near=2e-3)
    return tried


def test_a_file_that_narrower_widths_do_not_enlarge_ends_the_search():
    tried = search(lambda _: -0.03)
    assert [round(width, 2) for width, _ in tried] == [0.0, -0.04, -0.74]


def test_widths_at_which_all_kernels_have_their_least_are_left_again():
    """From 30 times on the file is as small as it can be, and smaller than asked for."""
    tried = search(lambda width: max(-0.05, 0.3 - width), start=3.0, bound=3.4)
    assert tried[-1][0] == pytest.approx(0.3, abs=2e-3)


def test_a_file_that_no_width_makes_small_enough_ends_it_at_the_bound():
    widths = [width for width, _ in search(lambda _: 0.4)]
    assert widths[-1] == 2.0
    assert widths == sorted(set(widths))


def test_a_first_width_beyond_the_usual_bound_is_no_trap():
    state = ControlState(log_width=-2.8)
    control = of_sizes(lambda width: -2.0 * (width + 2.7))
    assert SizeControl._follow(control, state, 1000.0, 2.3).error == pytest.approx(0, abs=2e-3)


def of_sizes(measure):
    """What `SizeControl._follow` needs of a control, with files of made-up sizes."""
    return types.SimpleNamespace(
        _estimate=lambda state, change: 1000.0 * math.exp(measure(state.log_width + change))
    )


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        # Far too wide is worse than a little too wide, which was found on the way.
        (lambda width: 0.3 if width < 0.1 else -0.01, -0.01),
        # All weights have their nearest value; wider ones are the only way, if any.
        (lambda _: 0.4, 0.4),
        (lambda width: -0.3 if width > -0.3 else 0.05 - 0.5 * (width + 0.4), 0.0),
        (lambda width: 0.05 if width < 0.4 else 0.05 - 5.0 * (width - 0.4), 0.0),
    ],
    ids=["jump", "plateau", "jump below", "late"],
)
def test_the_best_trial_counts(measure, expected):
    found = SizeControl._follow(of_sizes(measure), ControlState(), 1000.0, 2.3)
    assert found.error == pytest.approx(expected, abs=0.003)


def test_of_files_that_are_all_too_large_the_widest_counts():
    found = SizeControl._follow(of_sizes(lambda _: 0.4), ControlState(), 1000.0, 2.3)
    assert found.state.log_width == 2.3


def test_tau_follows_the_widths():
    assert gain_taken_over(0.5, 0.0) == -gain_taken_over(-0.5, 0.0) > 0
    # A file that no width makes small enough takes more pull, a small one less.
    assert gain_taken_over(0.1, 0.5) == gain_taken_over(0.5, 0.0)
    assert gain_taken_over(0.1, -0.5) == gain_taken_over(-0.5, 0.0)
    assert gain_taken_over(0.1, 0.01) == gain_taken_over(0.1, 0.0)


@pytest.mark.parametrize(
    ("fraction", "own", "log_width", "error", "sign"),
    [
        (0.1, 1.1, -0.5, 0.0, 0),  # Large by plan, and larger than asked for.
        (0.1, 0.9, -0.5, 0.0, -1),
        (0.1, 1.1, 0.5, 0.0, 1),
        (0.4, 1.1, -0.5, 0.0, -1),
        (0.4, 1.1, -0.5, -0.3, 0),  # Smaller than planned, and not than asked for.
        (0.4, 0.9, -0.5, -0.3, -1),
    ],
)
def test_tau_does_not_fall_because_a_file_is_smaller_than_planned(
    fraction, own, log_width, error, sign
):
    control = types.SimpleNamespace(_own_size=lambda _: own, _goal=lambda _: 1.0)
    state = ControlState(fraction=fraction, log_width=log_width, log_gain=0.3)
    assert np.sign(SizeControl._with_gain(control, state, error).log_gain - 0.3) == sign


def test_the_meter_measures_what_is_saved(tmp_path):
    shared = sws.apply_soft_weight_sharing(network())
    shared.snap.assign(1.0)
    variables = [v for group in shared.groups for v in group.variables]
    meter = FileMeter(shared.inner, variables, shared.sharing.unshared)
    size = meter.measure(stripped_values(shared, keep_statistics=False))
    small = sws.strip_soft_weight_sharing(shared)
    sws.save_compressed(small, tmp_path / "model.sws")
    assert size.total == (tmp_path / "model.sws").stat().st_size
    sizes = sws.coded_sizes(small)
    taken = sum(n for path, n in sizes.variables if "norm" not in path)
    assert size.shared == sizes.codebooks + taken


ELSEWHERE = """
import contextlib, sys
import keras, numpy as np
import tfmot_sws as sws

scope = contextlib.nullcontext
if sys.argv[1:] == ["mirrored"]:
    import tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
if sys.argv[1:] == ["data_parallel"]:
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    assert keras.distribution.distribution().device_mesh.shape == (2,)

generator = np.random.default_rng(0)
x = generator.standard_normal((128, 32)).astype("float32")
y = (x @ generator.standard_normal((32, 10))).astype("float32")
keras.utils.set_random_seed(3)
with scope():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((32,)), layers.Dense(40, activation="relu"), layers.Dense(10)], name="net"
    )
    shared = sws.apply_soft_weight_sharing(model, target_size=600)
    shared.compile(keras.optimizers.Adam(3e-3), "mse")
shared.fit(x, y, epochs=10, batch_size=16, verbose=0, callbacks=[sws.AnnealAndMerge()])
print(sws.coded_sizes(sws.strip_soft_weight_sharing(shared)).total)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "devices"),
    [
        ("jax", ""),
        ("torch", ""),
        ("tensorflow", "mirrored"),
        pytest.param("jax", "data_parallel", marks=pytest.mark.distributed),
    ],
)
def test_a_size_is_reached_on_every_backend_and_on_two_devices(backend, devices):
    pytest.importorskip(backend)
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2" if devices else "",
    }
    printed = output_of(ELSEWHERE, environment, *filter(None, [devices]))
    assert int(printed.splitlines()[-1]) == pytest.approx(600, rel=0.03)
