"""The documentation names what there is."""

import pathlib
import re

import tfmot_sws as sws

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_api_page_lists_every_public_name():
    listed = set(re.findall(r"::: tfmot_sws\.([\w.]+)", (DOCS / "api.md").read_text()))
    names = set(sws.__all__) - {"__version__", "visualization"}
    pictures = {f"visualization.{name}" for name in sws.visualization.__all__}
    names |= pictures - {f"visualization.{name}" for name in sws.__all__}
    assert names <= listed, f"missing in docs/api.md: {sorted(names - listed)}"
    assert listed <= names | {"schedules"}, f"no longer public: {sorted(listed - names)}"
