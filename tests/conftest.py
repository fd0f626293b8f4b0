"""Fixtures that all tests share."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

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
