"""The public names exist, are documented, and are those that the documentation uses."""

import pathlib
import pkgutil
import re

import pytest

import tfmot_sws as sws

ROOT = pathlib.Path(__file__).parents[1]
# Files that show code for users.
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    # Without the files that examples write there.
    *sorted(p for p in (ROOT / "examples").iterdir() if p.suffix in (".py", ".ipynb")),
]
# `sws.name` or `tfmot_sws.name.name`, but not the ending of a file such as model.sws.
MENTION = re.compile(r"(?<![\w.])(?:tfmot_)?sws\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
IMPORT = re.compile(r"^ *from tfmot_sws import ([\w, ]+)", re.MULTILINE)


def mentioned(text):
    """The dotted names below the package that a text uses."""
    imported = (name for names in IMPORT.findall(text) for name in names.split(","))
    return {*MENTION.findall(text), *(name.strip() for name in imported)}


def is_public(name):
    """Whether the first part of a dotted name is one that `__all__` lists."""
    return name.split(".")[0] in sws.__all__


def test_all_is_sorted_without_repeats():
    assert sws.__all__ == sorted(set(sws.__all__))


@pytest.mark.parametrize("name", sws.__all__)
def test_a_public_name_has_a_docstring(name):
    value = getattr(sws, name)
    assert name == "__version__" or value.__doc__.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_on_a_page_exist(page):
    for name in mentioned(page.read_text(encoding="utf-8")):
        pkgutil.resolve_name(f"{sws.__name__}.{name}")


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "api.md"])
def test_names_in_the_reference_are_public(page):
    names = mentioned(page.read_text(encoding="utf-8"))
    assert names
    assert {name for name in names if not is_public(name)} == set()


def test_mentions_are_found():
    text = "import tfmot_sws as sws\nfrom tfmot_sws import a, b\nx = sws.c.d(y); z.sws.e; f.sws"
    assert mentioned(text) == {"a", "b", "c.d"}
