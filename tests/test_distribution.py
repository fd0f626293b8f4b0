"""Several devices and processes train what a single device trains."""

import contextlib
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from tfmot_sws.training.replica_losses import ReplicaLosses

WORKER = pathlib.Path(__file__).with_name("distribution_worker.py")
pytestmark = pytest.mark.distributed


def start(engine, output, backend, *process):
    """A worker with the engine, as a process that writes `output`."""
    return subprocess.Popen(
        [sys.executable, str(WORKER), engine, str(output), *map(str, process)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **{name: v for name, v in os.environ.items() if name != "XLA_FLAGS"},
            "KERAS_BACKEND": backend,
            "CUDA_VISIBLE_DEVICES": "-1",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(output.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "PYTHONPATH": str(WORKER.parents[1]),
        },
    )


def finish(*workers):
    """What each worker printed, once all have ended; none outlives this."""
    try:
        printed = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
    return printed


def succeed(*workers):
    """`finish`, where none may fail."""
    for worker, text in zip(workers, finish(*workers), strict=True):
        assert worker.returncode == 0, text[-4000:]


def free_ports(count):
    """The first of some neighbouring ports of the loopback that are free."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                for other in range(port + 1, port + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", other))
            except OSError:
                continue
            return port


def needs_jax():
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distribution")


@pytest.fixture(scope="module")
def tensorflow(folder):
    """Results on TensorFlow: of one device, and of two under MirroredStrategy."""
    paths = [folder / "tf_single.npz", folder / "tf_mirrored.npz"]
    workers = [
        start(engine, path, "tensorflow")
        for engine, path in zip(("single", "mirrored"), paths, strict=True)
    ]
    succeed(*workers)
    return [dict(np.load(path)) for path in paths]


@pytest.fixture(scope="module")
def jax(folder):
    """Results on JAX: of one device, of two, and of each of two processes."""
    needs_jax()
    port = free_ports(1)
    names = ("single", "data_parallel", "processes_0", "processes_1")
    paths = [folder / f"jax_{name}.npz" for name in names]
    # Two at a time: a test machine may have two cores.
    succeed(*(start(names[i], paths[i], "jax") for i in (0, 1)))
    succeed(*(start("processes", paths[2 + i], "jax", i, port) for i in (0, 1)))
    return {name: dict(np.load(path)) for name, path in zip(names, paths, strict=True)}


def names_of(results):
    """What is compared: all but the losses held for the next steps, which are renewed."""
    return [name for name in results if "held_loss" not in name]


def check_same(results, expected):
    """All variables, stripped weights and logs, to float tolerance.

    All but the single device were killed half-way and resumed.
    """
    names = names_of(expected)
    assert len(names) > 20
    assert set(names_of(results)) == set(names)
    for name in names:
        # A resumed run has logs of the epochs since.
        same = expected[name]
        if name.startswith("logs/"):
            same = same[-len(results[name]) :]
        np.testing.assert_allclose(results[name], same, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_mirrored_strategy_equals_one_device(tensorflow):
    single, mirrored = tensorflow
    check_same(mirrored, single)


@pytest.mark.slow
def test_data_parallel_equals_one_device(jax):
    check_same(jax["data_parallel"], jax["single"])


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_two_processes_equal_one(jax, process):
    check_same(jax[f"processes_{process}"], jax["single"])


@pytest.mark.slow
def test_training_reached_a_state_worth_comparing(tensorflow):
    """Several components, a prior that pulls, and an error that falls once snapping is done."""
    single = tensorflow[0]
    assert single["logs/num_components"][-1] >= 3
    assert single["logs/complexity_loss"][-1] != 0
    errors = single["logs/error_loss"]
    assert errors[-1] < 0.9 * errors.max()


@pytest.mark.slow
def test_complexity_counts_once_in_the_logs(tensorflow, jax):
    """The logged loss is error plus complexity, both as on one device."""
    for single, several in (
        tensorflow,
        (jax["single"], jax["data_parallel"]),
        (jax["single"], jax["processes_0"]),
    ):
        for key in ("loss", "error_loss", "complexity_loss"):
            logs = several[f"logs/{key}"]
            np.testing.assert_allclose(logs, single[f"logs/{key}"][-len(logs) :], rtol=1e-4)


@pytest.mark.slow
def test_multi_worker_mirrored_strategy_is_turned_down(folder):
    port = free_ports(2)
    workers = [
        start("multi_worker", folder / f"multi_{i}.npz", "tensorflow", i, port) for i in (0, 1)
    ]
    for worker, text in zip(workers, finish(*workers), strict=True):
        assert worker.returncode != 0
        assert "MultiWorkerMirroredStrategy does not work with fit of Keras 3" in text, text
        assert "KERAS_BACKEND=jax" in text


def test_replicas_see_their_own_losses():
    losses = ReplicaLosses()
    first, second, of_nobody = object(), object(), object()
    seen = {}

    def replica(name, own, may_look):
        losses.note([own])
        may_look.wait(10)
        seen[name] = losses.without_others([first, second, of_nobody])

    look = threading.Barrier(2)
    threads = [
        threading.Thread(target=replica, args=(name, own, look))
        for name, own in (("first", first), ("second", second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": [first, of_nobody], "second": [second, of_nobody]}


def test_losses_of_ended_threads_are_let_go():
    losses = ReplicaLosses()
    old = object()
    thread = threading.Thread(target=losses.note, args=([old],))
    thread.start()
    thread.join()
    losses.note([])
    assert losses.without_others([old]) == [old]
