"""Writes the tables of all stored runs again, from the records next to them.

    python -m benchmarks.render

For when the form of a table changes; it measures nothing.
"""

import argparse
import importlib
import json

from benchmarks import common


def render(path):
    """The Markdown that the script of a record makes of it today."""
    script = importlib.import_module(f"benchmarks.{path.parent.name}")
    return script.to_markdown(json.loads(path.read_text()))


def main():
    """Renders every record under results/."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    for path in sorted(common.RESULTS.glob("*/*.json")):
        path.with_suffix(".md").write_text(render(path))


if __name__ == "__main__":
    main()
