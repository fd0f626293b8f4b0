"""The stored tables of the benchmarks are those of the stored records, and the cells run."""

import json

import pytest

pytest.importorskip("tabulate")

from benchmarks import common, render, speed
from benchmarks.real_networks import front
from benchmarks.speed_cells import nets

RECORDS = sorted(common.RESULTS.glob("*/*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_tables_are_those_of_the_records(path):
    assert render.render(path) == path.with_suffix(".md").read_text(encoding="utf-8")


def test_the_readme_shows_what_was_measured():
    readme = (common.ROOT / "README.md").read_text(encoding="utf-8")
    assert front.START in readme
    assert front.put_into(readme) == readme


def test_readme_lists_every_module_and_script_with_results():
    text = (common.ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (common.ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    folders = {f"{path.parent.name}/" for path in RECORDS}
    assert not [name for name in modules | folders if f"`{name}" not in text]


def test_command_keeps_no_folder(monkeypatch, tmp_path):
    words = ["--data", str(tmp_path / "mnist.npz"), f"--output={tmp_path}", "--seed", "1"]
    monkeypatch.setattr("sys.argv", ["speed.py", *words])
    args = common.make_parser("").parse_args(["--output", str(tmp_path)])
    record = common.start_record("speed", args)
    assert record["command"] == (
        f"python -m benchmarks.speed --data mnist.npz --output={tmp_path.name} --seed 1"
    )
    assert record["arguments"] == {"run": None, "output": tmp_path.name}


@pytest.mark.parametrize("turns", [*speed.TURNS.values(), speed.QUICK_TURNS])
def test_turns_hold_whole_periods_of_renewal(turns):
    assert turns[0] % nets.RENEWAL_PERIOD == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("prior", ("ours", 10_000, 4, 1, 0)),
        ("prior", ("ours, in training", 10_000, 4, 1, 0)),
        ("step", ("lenet-300-100", 0, 1, 17, 0)),
    ],
    ids=["prior", "prior in training", "step"],
)
def test_cells_of_the_speed_benchmark_run(module, arguments):
    done = common.run_module(
        f"speed_cells.{module}", *arguments, capture_output=True, text=True
    )
    record = json.loads(done.stdout.splitlines()[-1])
    seconds = record["ours"]["step"] if module == "step" else record["seconds"]
    assert seconds > 0.0
