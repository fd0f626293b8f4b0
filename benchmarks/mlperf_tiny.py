"""The four networks of MLPerf Tiny in every format, beside MLPerf Tiny's own int8 files.

    python -m benchmarks.mlperf_tiny --data FOLDER

Runs `examples/mlperf_tiny.py` and stores what it finds. The folder has `mlperf_tiny/` with the
Keras files that the example names, and `cifar10_jpeg.npz`; without the latter, CIFAR-10 is
downloaded. Results are stored after each network; `--resume` goes on with those.
"""

import datetime
import os
import pathlib
import tempfile

from benchmarks import common
from benchmarks.real_networks import files, photos
from examples import mlperf_tiny as example

SCRIPT = "mlperf_tiny"
# At a higher load, what takes longer than a slice of time is slowed down the most.
IDLE = 1.0
OVERVIEW = (
    "network",
    "parameters",
    "MLPerf Tiny's int8",
    "int8 of the dense network",
    ".sws",
    "int8",
    "int8_codebook",
    "figure",
    "dense",
    "small",
    "int8 file",
)


def make_row(name, args):
    """What became of a network, with the time of day and the load."""
    models = files.find(SCRIPT)
    if models is None:
        raise FileNotFoundError(f"mlperf_tiny/ is not in the folder of {files.VARIABLE}.")
    when = {"date": datetime.date.today().isoformat(), "load": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as folder:
        found = example.run(
            example.NETWORKS[name],
            models,
            pathlib.Path(folder),
            cifar10=lambda: tuple(example.Split(*part) for part in photos.load()),
            quick=args.quick,
            codebook=args.codebook,
        )
    return {"network": name, **when, **found}


def to_markdown(record):
    """Command and environment, an overview, and a table and the refusals of each network."""
    overview = common.to_table(OVERVIEW, [_overview(row) for row in record["rows"]])
    parts = [_to_section(row) for row in record["rows"]]
    return common.join(
        common.to_header(record), common.to_section("overview", overview), *parts
    )


def _overview(row):
    """Raw and gzip bytes of the files that one compares first."""
    cells = [row["title"], f"{row['parameters']:,}", f"{row['reference bytes']:,}"]
    sizes = [_sizes(row["rows"][name]) for name in ("dense, int8", "int8", "int8_codebook")]
    int8 = row["rows"]["int8"].get("figure")
    figures = [f"{row['dense figure']:.1%}", f"{row['figure']:.1%}"]
    figures.append("" if int8 is None else f"{int8:.1%}")
    sws = f"{row['sws bytes']:,}"
    return [*cells, sizes[0], sws, *sizes[1:], row["measure"], *figures]


def _sizes(row):
    return "refused" if "refused" in row else f"{row['raw']:,}, gzip {row['gzip']:,}"


def _to_section(row):
    headers = ["file", "raw bytes", "gzip bytes", row["measure"], "latency"]
    cells, notes = [list(line) for line in example.to_cells(row)], example.to_notes(row)
    if row["load"] > IDLE:
        headers, cells = headers[:4], [line[:4] for line in cells]
        notes.append(f"latency: left out, as the machine was busy (load {row['load']}).")
    table = common.to_table(headers, cells, ("left", *["right"] * (len(headers) - 1)))
    notes = "\n".join(f"- {note}" for note in notes)
    return f"## {row['title']}\n\n" + common.to_section(row["network"], f"{table}\n\n{notes}")


def main():
    """Runs what is asked for, and stores each network as it is done."""
    args = _parse_arguments()
    files.look_in(args.data)
    record = common.open_record(SCRIPT, args, rows=[])
    done = {row["network"] for row in record["rows"]}
    for name in args.nets:
        if name not in done:
            record["rows"].append(make_row(name, args))
            common.write(SCRIPT, args, record, to_markdown(record))
    print(to_markdown(record))


def _parse_arguments():
    parser = common.make_parser(__doc__)
    parser.set_defaults(seed=example.SEED)
    add = parser.add_argument
    files.add_argument(parser)
    add("--nets", nargs="+", choices=list(example.NETWORKS), default=list(example.NETWORKS))
    add("--quick", action="store_true", help="few examples and epochs, to try it out")
    add("--codebook", choices=["free", "uniform"], default="free", help="values of a kernel")
    add("--resume", action="store_true", help="go on with the stored networks of this run")
    args = parser.parse_args()
    args.run = args.run or common.name_run(["all"], args.quick)
    return args


if __name__ == "__main__":
    main()
