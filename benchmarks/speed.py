"""What the prior, a training step and the start cost, each against what one would do else.

The part `holding` trains, and shows what it does to errors and outcome that the prior is not
evaluated at every step.

    python -m benchmarks.speed
    python -m benchmarks.speed --part step --nets lenet-300-100 transformer
    python -m benchmarks.speed --quick

Everything runs in a process of its own, one after the other. Models whose steps are compared
take turns within one, and so do many components and few. Run it on an idle machine: the load
at the start is among the results. `--all` adds MobileNetV2 and ResNet-50 with the whole step
under XLA, which take minutes to compile.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import time

from benchmarks import common, speed_bars
from benchmarks.speed_records import COMPONENTS, SIZES, STARTUP_NET, summarise_holding
from benchmarks.speed_report import to_markdown

PARTS = ("prior", "components", "holding", "step", "startup")
METHODS = ("published", "published, XLA", "ours, no XLA", "ours", "ours, in training")
# Training steps a turn, one more than a multiple of `RENEWAL_PERIOD`, and turns.
TURNS = {
    "lenet-300-100": (209, 31),
    "lenet-5-caffe": (65, 15),
    "transformer": (17, 9),
    "resnet-20": (17, 13),
    "mobilenet-v2": (17, 5),
    "resnet-50": (17, 2),
}
QUICK_TURNS = 17, 1
HOLDING_SEEDS = 10
# Turns of the prior with many components and with few.
COMPONENTS_ROUNDS = dict(zip(SIZES, (101, 51, 9), strict=True))
QUICK_NETS = ["lenet-300-100", "transformer"]
# Turns with the whole step under XLA, of networks that take minutes to compile.
TURNS_UNDER_XLA = {"mobilenet-v2": 3, "resnet-50": 2}
# A cell may take this share of the memory that is free; so many seconds at most, and where the
# prior alone is evaluated.
MEMORY_SHARE = 0.7
MOST_SECONDS = 1800
MOST_SECONDS_PRIOR = 300
GIB = 2**30


def run_cell(script, *arguments):
    """What a script of `speed_cells` prints on its last line, or why there is nothing."""
    most_seconds = MOST_SECONDS_PRIOR if script == "prior" else MOST_SECONDS
    print(f"{time.strftime('%X')} {script} {' '.join(map(str, arguments))}", flush=True)
    try:
        done = common.run_module(
            f"speed_cells.{script}",
            *arguments,
            env=os.environ | {"KERAS_BACKEND": "tensorflow"},
            check=False,
            capture_output=True,
            text=True,
            timeout=most_seconds,
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"took more than {most_seconds} s"}
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    return {"reason": _reason(done)}


def _reason(done):
    """The last line of the form of an exception, or the signal."""
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    errors = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", done.stderr, re.MULTILINE)
    # Without the folder that the repository lies in, for the records go into it.
    errors = [error.replace(f"{common.ROOT}/", "") for error in errors]
    return errors[-1][:200] if errors else f"exit status {done.returncode}"


# The prior.


def measure_prior(sizes, repeats, seed):
    """A record for every size, number of components and method."""
    records, bytes_each = [], {}
    for size in sizes:
        for num_components in COMPONENTS:
            for method in METHODS:
                record = {"weights": size, "components": num_components, "method": method}
                excess = _excess(bytes_each.get(method), size, num_components)
                if excess:
                    record["reason"] = excess
                else:
                    record |= run_cell("prior", method, size, num_components, repeats, seed)
                if record.get("memory") and method.startswith("published"):
                    bytes_each[method] = record["memory"] / (size * num_components)
                records.append(record)
    return records


def measure_components(sizes, repeats, seed):
    """A record for every size."""
    return [
        {"weights": size}
        | run_cell("components", size, repeats or COMPONENTS_ROUNDS[size], seed, *COMPONENTS)
        for size in sizes
    ]


def _excess(bytes_each, size, num_components):
    """Why a cell does not fit in memory, going by the cell before it; else `None`."""
    need = (bytes_each or 0.0) * size * num_components
    free = _free_memory()
    if free is None or need < MEMORY_SHARE * free:
        return None
    return (
        f"needs {need / GIB:.0f} GiB ({bytes_each:.0f} bytes a weight and component, as "
        f"measured); {free / GIB:.0f} GiB are free"
    )


def _free_memory():
    """Bytes, or `None` where Linux does not tell."""
    path = pathlib.Path("/proc/meminfo")
    if not path.exists():
        return None
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", path.read_text())[1])


def measure_holding(seeds):
    """A record for every seed; the first also with the errors of single steps."""
    records = [
        {"seed": seed, **run_cell("holding", seed, int(seed == seeds[0]))} for seed in seeds
    ]
    return [summarise_holding(record) for record in records]


# A training step.


def measure_steps(nets, args):
    """A record for every network: tfmot's, and ours with and without XLA."""
    return [_measure_net(net, args) for net in nets]


def _measure_net(net, args):
    steps, rounds = QUICK_TURNS if args.quick else TURNS[net]
    rounds = args.repeats or rounds
    record = {
        "net": net,
        "no XLA": run_cell("step", net, 0, rounds, steps, args.seed),
        "XLA": {"reason": "compiles for minutes; see --all"},
        "tfmot": run_cell("tfmot_step", net, rounds, steps, args.seed),
    }
    if args.all or net not in TURNS_UNDER_XLA:
        under_xla = min(rounds, TURNS_UNDER_XLA.get(net, rounds))
        record["XLA"] = run_cell("step", net, 1, under_xla, steps, args.seed)
    return record


# The start.


def measure_startup(step_records, seed):
    """The record of a network's first step, taken over if it was measured already."""
    for record in step_records:
        if record["net"] == STARTUP_NET:
            return record["no XLA"]
    steps, _ = TURNS[STARTUP_NET]
    return run_cell("step", STARTUP_NET, 0, 1, steps, seed)


def main():
    """Measures, prints, writes."""
    args = _parse_arguments()
    record = common.start_record("speed", args)
    measure = {
        "prior": lambda: measure_prior(args.sizes, args.repeats or 7, args.seed),
        "components": lambda: measure_components(args.sizes, args.repeats, args.seed),
        "holding": lambda: measure_holding(range(args.seed, args.seed + args.holding_seeds)),
        "step": lambda: measure_steps(args.nets, args),
        "startup": lambda: measure_startup(results.get("step", []), args.seed),
    }
    results = {}
    for part in PARTS:
        if part in args.part:
            results[part] = measure[part]()
            # After each part, for the whole takes hours.
            full = record | results | {"bars": speed_bars.judge(results)}
            common.write("speed", args, full, to_markdown(full))
    print(to_markdown(full))


def _parse_arguments():
    parser = common.make_parser(__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--nets", nargs="+", choices=sorted(TURNS))
    parser.add_argument("--quick", action="store_true", help="few sizes, nets and repeats")
    parser.add_argument("--all", action="store_true", help="what compiles for minutes, too")
    parser.add_argument("--repeats", type=int, help="of every measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--holding-seeds", type=int, help="trainings for that part")
    args = parser.parse_args()
    args.nets = args.nets or (QUICK_NETS if args.quick else list(TURNS))
    args.sizes = SIZES[:1] if args.quick else SIZES
    args.repeats = args.repeats or (3 if args.quick else None)
    args.holding_seeds = args.holding_seeds or (1 if args.quick else HOLDING_SEEDS)
    parts = ["all"] if set(args.part) == set(PARTS) else args.part
    args.run = args.run or common.name_run(parts, args.quick)
    return args


if __name__ == "__main__":
    main()
