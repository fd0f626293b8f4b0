"""Writes the tables of all stored runs again, and the README's, from the records.

    python -m benchmarks.render

For when the form of a table changes; it measures nothing.
"""

import argparse
import importlib
import json

from benchmarks import common
from benchmarks.real_networks import front


def render(path):
    """The Markdown that the script of a record makes of it today."""
    script = importlib.import_module(f"benchmarks.{path.parent.name}")
    return script.to_markdown(json.loads(path.read_text()))


def main():
    """Renders every record under results/, and the table of the README."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    for path in sorted(common.RESULTS.glob("*/*.json")):
        path.with_suffix(".md").write_text(render(path))
    readme = common.ROOT / "README.md"
    readme.write_text(front.put_into(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
