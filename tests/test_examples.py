"""The example of pipelines, in its short form."""

import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ROWS = {
    "prune": ["dense", "tfmot prune", "tfmot prune, ours"],
    "quantize": ["ours", "ours, tfmot CQAT", "ours, tfmot PCQAT"],
    "keras3": ["ours, Keras 3", "ours, Edge Quantizer", "ours, quantize, .keras"],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table():
    """Values and share of zeros by row, as the example prints them."""
    pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "tfmot_pipelines.py"), "--quick"],
        capture_output=True,
        text=True,
        check=True,
    )
    row = re.compile(r"^\s+(\S.*?)\s{2,}\S+%\s+([\d,]+)\s+(\S+)%", re.M)
    return {
        name: (int(values.replace(",", "")), float(zeros) / 100)
        for name, values, zeros in row.findall(done.stdout)
    }


def test_every_pipeline_runs(table):
    assert list(table) == [name for rows in ROWS.values() for name in rows]


def test_clusters_and_zeros_outlast_what_follows(table):
    for first, *others in (ROWS["quantize"], ROWS["keras3"]):
        values, zeros = table[first]
        for name in others:
            assert table[name][0] <= values, name
            # To CQAT zero is a cluster like any.
            assert table[name][1] >= zeros - 1e-3 or name.endswith("tfmot CQAT"), name


def test_pruning_is_kept(table):
    assert table["tfmot prune"][1] == pytest.approx(0.6, abs=0.01)
    values, zeros = table["tfmot prune, ours"]
    assert values <= 16
    assert zeros >= table["tfmot prune"][1]
