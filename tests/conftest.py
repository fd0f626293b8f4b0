"""Fixtures that all tests share."""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Programs that JAX has compiled in one process that tests start serve the others, too.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import numpy as np
import pytest

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# A program that tests start, and no module.
collect_ignore = ["distribution_worker.py"]


def pytest_collection_finish():
    """Keeps the garbage collector from looking through all of TensorFlow again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    """A seeded generator, the same in every run."""
    return np.random.default_rng(20170211)
