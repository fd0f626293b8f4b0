"""Finds the files of data that no package brings."""

import os
import pathlib

# A variable, since processes that the benchmark starts need the same files.
VARIABLE = "BENCHMARK_DATA"


def find(name):
    """The path of a file in the folder that `BENCHMARK_DATA` names; None where it is not."""
    path = pathlib.Path(os.environ.get(VARIABLE, "")) / name
    return path if VARIABLE in os.environ and path.exists() else None
