"""The documentation names what there is."""

import importlib.util
import pathlib
import re
import shlex

import pytest

import tfmot_sws as sws
import tfmot_sws_cli

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_api_page_lists_every_public_name():
    listed = set(re.findall(r"::: tfmot_sws\.([\w.]+)", (DOCS / "api.md").read_text()))
    names = set(sws.__all__) - {"__version__", "visualization"}
    pictures = {f"visualization.{name}" for name in sws.visualization.__all__}
    names |= pictures - {f"visualization.{name}" for name in sws.__all__}
    assert names <= listed, f"missing in docs/api.md: {sorted(names - listed)}"
    assert listed <= names | {"schedules"}, f"no longer public: {sorted(listed - names)}"


PAGES = [
    DOCS.parent / "README.md",
    DOCS.parent / "benchmarks" / "README.md",
    *DOCS.glob("*.md"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_commands_are_ones_that_there_are(page):
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^ *tfmot-sws (.*)$", text, re.MULTILINE):
        tfmot_sws_cli.parser().parse_args(shlex.split(line, comments=True))
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"python (examples/\S+\.py)", text):
        assert (DOCS.parent / path).is_file(), path
