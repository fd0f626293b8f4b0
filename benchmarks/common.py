"""What the benchmarks share: arguments, processes, records of runs, tables, files."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import runpy
import shlex
import subprocess
import sys
import tempfile

from tabulate import tabulate

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("tensorflow", "keras", "tf_keras", "tensorflow-model-optimization", "numpy")


# Arguments and processes.


def make_parser(doc):
    """A parser with the arguments of every benchmark; `doc` is the docstring of the script."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", help="name of the result files; default: what is run")
    parser.add_argument(
        "--output", type=pathlib.Path, default=RESULTS, help="folder of the results"
    )
    return parser


def add_data_argument(parser):
    """`--data`, the file of MNIST that `lenet_mnist.load_mnist` takes."""
    parser.add_argument("--data", type=pathlib.Path, help="mnist.npz; else it is downloaded")


def name_run(words, quick=False):
    """The default name of a run: its words, and whether it is a quick one."""
    return "-".join([*words, *["quick"] * quick])


def run_module(module, *arguments, check=True, **options):
    """Runs a module of this package in a process of its own; `options` as `subprocess.run`."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=check, **options)


# The record of a run.


def start_record(script, args):
    """Command, arguments and environment of a run, taken before anything is measured."""
    return {
        "command": _command_line(script),
        "arguments": {name: _plain(value) for name, value in vars(args).items()},
        "environment": _describe_environment(getattr(args, "seed", None)),
    }


def _command_line(script):
    """The command as it was given, but paths by their last part."""
    words = map(_shorten, sys.argv[1:])
    return shlex.join(["python", "-m", f"benchmarks.{script}", *words])


def _shorten(word):
    """A word of the command line; a path, alone or behind `--option=`, is its last part."""
    option, equals, value = word.rpartition("=")
    path = pathlib.Path(value)
    return option + equals + (path.name if path.is_absolute() or path.exists() else value)


def _plain(value):
    """A value as JSON takes it; a path is its last part."""
    if isinstance(value, pathlib.Path):
        return value.name
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _describe_environment(seed):
    """Versions and whatever else a figure depends on."""
    found = {"Python": platform.python_version()}
    found |= {name: _version(name) for name in PACKAGES}
    # Read from the file: an import of the package takes seconds.
    version_file = ROOT / "tfmot_sws" / "_version.py"
    found["tfmot_sws"] = runpy.run_path(str(version_file))["__version__"]
    found |= {"machine": platform.machine(), "cores": os.cpu_count()}
    if seed is not None:
        found["seed"] = seed
    if hasattr(os, "getloadavg"):
        found["load at the start"] = round(os.getloadavg()[0], 2)
    return found


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


# What is measured and chosen.


def count_sws_bytes(model):
    """Size of a model as save_compressed writes it, architecture included."""
    # Imported here: most benchmarks that take arguments from this module need no Keras.
    import tfmot_sws as sws

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.sws"
        sws.save_compressed(model, path)
        return path.stat().st_size


def pick(records, limit):
    """The smallest whose validation error is within the limit, else the most accurate."""
    good = [r for r in records if r["validation error"] <= limit]
    if good:
        return min(good, key=lambda r: r["bytes"])
    return min(records, key=lambda r: r["validation error"])


# What is written.


def open_record(script, args, **parts):
    """A record with these parts, or with those of the stored run that is to go on.

    In the latter case "earlier" holds the calls that they come from.
    """
    record = {**start_record(script, args), **parts}
    path = args.output / script / f"{args.run}.json"
    if not (args.resume and path.exists()):
        return record
    stored = json.loads(path.read_text())
    call = {key: stored[key] for key in ("command", "environment") if key in stored}
    kept = {key: stored[key] for key in parts}
    return {**record, **kept, "earlier": [*stored.get("earlier", []), call]}


def to_header(record):
    """Commands and environments of a run, earlier calls first, as Markdown."""
    return "\n\n".join(_describe_call(call) for call in [*record.get("earlier", []), record])


def _describe_call(call):
    if "command" not in call:
        return "Command and environment of this run were not recorded."
    command = call["command"]
    line = command if isinstance(command, str) else " ".join(command)
    return f"`{line}`\n\n" + ", ".join(f"{k} {v}" for k, v in call["environment"].items())


def to_table(headers, rows, align=()):
    """A table in Markdown; rows may be short, `align` names the side of each column."""
    padded = [[*row, *[""] * (len(headers) - len(row))] for row in rows]
    return tabulate(
        padded, headers, tablefmt="github", disable_numparse=True, colalign=align or None
    )


def to_section(name, text):
    """Markdown that a page of the documentation can include by this name."""
    return f"<!-- --8<-- [start:{name}] -->\n\n{text}\n\n<!-- --8<-- [end:{name}] -->"


def join(*blocks):
    """Blocks of Markdown as the text of a file."""
    return "\n\n".join(blocks) + "\n"


def write(script, args, record, text):
    """Stores a run as results/<script>/<run>.json and .md."""
    folder = args.output / script
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{args.run}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{args.run}.md").write_text(text)
