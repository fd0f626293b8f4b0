"""Python in a process of its own, for what must not happen in that of the tests."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def output_of(code, environment):
    """What the code prints; raises `CalledProcessError` if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )
    return done.stdout
