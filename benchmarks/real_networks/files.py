"""Finds the files of data that no package brings."""

import os
import pathlib

# A variable, since processes that the benchmark starts need the same files.
VARIABLE = "BENCHMARK_DATA"


def add_argument(parser):
    """Adds `--data`, the folder that `look_in` takes."""
    text = f"folder of data; else ${VARIABLE} names it"
    parser.add_argument("--data", type=pathlib.Path, help=text)


def look_in(folder):
    """Has `find` look in a folder from now on; `None` leaves it to `BENCHMARK_DATA`."""
    if folder:
        os.environ[VARIABLE] = str(folder.resolve())


def find(name):
    """The path of a file in the folder that `BENCHMARK_DATA` names; None where it is not."""
    path = pathlib.Path(os.environ.get(VARIABLE, "")) / name
    return path if VARIABLE in os.environ and path.exists() else None
