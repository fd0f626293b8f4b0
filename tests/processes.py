"""Python in a process of its own, for what must not happen in that of the tests."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def output_of(code, environment, *arguments):
    """What the code prints; the test fails if the code does, with what it said of it."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    if done.returncode:
        pytest.fail(f"exit status {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout
