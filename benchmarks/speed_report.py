"""Tables of speed.py."""

import statistics

from tabulate import tabulate

SIZES = (640_000, 10_000_000, 100_000_000)
COMPONENTS = (16, 64)
STARTUP_NET = "resnet-50"


def prior_table(records):
    """Headers and rows."""
    headers = [
        "weights",
        "K",
        "method",
        "time",
        "ns a weight",
        "faster than published",
        "extra memory",
        "float32 copies of the weights",
        "error of loss",
        "of gradient in weights",
        "in mixture",
    ]
    rows = []
    for record in records:
        row = [f"{record['weights'] / 1e6:g} M", record["components"], record["method"]]
        if "reason" in record:
            rows.append([*row, record["reason"]])
            continue
        baseline = find(records, record["weights"], record["components"], "published")
        seconds, errors = record["seconds"], record["errors"]
        rows.append(
            [
                *row,
                f"{1e3 * seconds:,.1f} ms",
                f"{1e9 * seconds / record['weights']:.1f}",
                _times(baseline.get("seconds"), seconds),
                *_memory_cells(record),
                *(_error_cell(errors, name) for name in ("loss", "weights", "mixture")),
            ]
        )
    return headers, rows


def _error_cell(errors, name):
    return "as ours" if errors is None else f"{errors[name]:.1e}"


def _memory_cells(record):
    if record["memory"] is None:
        return "", ""
    if copies(record) < 1:
        # The gradient alone is a copy: it lies in what the start had already taken.
        return "too little to see", ""
    return f"{record['memory'] / 2**20:,.0f} MiB", f"{copies(record):.1f}"


def copies(record):
    """Of the weights in float32, as much as a cell took beyond them."""
    return record["memory"] / (4 * record["weights"])


def _times(baseline, seconds):
    return f"{baseline / seconds:.1f}x" if baseline else ""


def find(records, size, num_components, method="ours"):
    """The record of a cell; empty where it was not measured."""
    wanted = size, num_components, method
    found = (r for r in records if (r["weights"], r["components"], r["method"]) == wanted)
    return next(found, {})


def components_table(records):
    """Headers and rows."""
    few, many = COMPONENTS
    headers = ["weights", f"K = {few}", f"K = {many}", "ratio", "95 %"]
    rows = []
    for record in records:
        row = [f"{record['weights'] / 1e6:g} M"]
        if "reason" in record:
            rows.append([*row, record["reason"]])
            continue
        seconds = (record["seconds"][str(number)] for number in COMPONENTS)
        cells = [f"{1e3 * each:,.1f} ms" for each in seconds]
        rows.append([*row, *cells, f"**{record['ratio']:.2f}**", _interval_cell(record)])
    return headers, rows


# Gradients held from one evaluation of the prior to the next.


def summarise_holding(record):
    """A record with its steps' errors as medians and tenth-largest, by steps since."""
    if "reason" in record:
        return record
    by_age = {}
    for step in record["errors"]:
        by_age.setdefault(step["steps since"], []).append(step)
    errors = [
        {
            "steps since": age,
            "steps": len(steps),
            "weights": statistics.median(step["weights"] for step in steps),
            "weights, 90 %": statistics.quantiles((s["weights"] for s in steps), n=10)[-1],
            "mixture": statistics.median(step["mixture"] for step in steps),
        }
        for age, steps in sorted(by_age.items())
    ]
    return record | {"errors": errors}


def holding_table(records):
    """Headers and rows: errors by steps since the evaluation, of the first seed."""
    headers = ["steps since the evaluation", "steps", "off in weights: median", "90 % below"]
    headers.append("off in mixture: median")
    if "reason" in records[0]:
        return headers, [["not measured", records[0]["reason"]]]
    rows = [
        [
            str(error["steps since"]),
            str(error["steps"]),
            *(f"{error[name]:.1e}" for name in ("weights", "weights, 90 %", "mixture")),
        ]
        for error in records[0]["errors"]
    ]
    return headers, rows


def outcome_table(records):
    """Headers and rows: what the trainings came to, means over the seeds."""
    headers = ["evaluated at", "seeds", "test accuracy", "dense", ".sws bytes"]
    done = [record for record in records if "reason" not in record]
    if not done:
        return headers, []
    by_period = {}
    for record in done:
        for outcome in record["outcomes"]:
            by_period.setdefault(outcome["period"], []).append(outcome)
    dense = _mean_and_spread([100 * record["dense"] for record in done], ".2f", " %")
    rows = [
        [
            "every step" if period == 1 else f"one step in {period}",
            str(len(outcomes)),
            _mean_and_spread([100 * o["accuracy"] for o in outcomes], ".2f", " %"),
            dense,
            _mean_and_spread([o["bytes"] for o in outcomes], ",.0f"),
        ]
        for period, outcomes in by_period.items()
    ]
    return headers, rows


def _mean_and_spread(values, form, unit=""):
    """The mean, with the standard deviation over the seeds if there are several."""
    spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{spread}{unit}"


def step_table(records):
    """Headers and rows, one for each way to train."""
    headers = ["network", "", "plain fit", "step", "ratio", "95 %", "more an epoch"]
    rows = []
    for record in records:
        for title, cell, key in _ways(record):
            row = [record["net"], title]
            if "reason" in cell or "reason" in cell[key]:
                reason = cell.get("reason") or cell[key]["reason"]
                rows.append([*row, reason])
                continue
            plain, own = cell["plain"], cell[key]
            rows.append(
                [
                    *row,
                    f"{1e3 * plain['spread']:,.2f} ms",
                    f"{1e3 * own['spread']:,.2f} ms",
                    f"**{own['ratio']:.2f}**",
                    _interval_cell(own),
                    f"{own['epoch'] - plain['epoch']:+.2f} s",
                ]
            )
    return headers, rows


def _interval_cell(own):
    """Between which bounds the median lies; empty where there were too few rounds."""
    return " to ".join(f"{bound:.2f}" for bound in own.get("interval", []))


def _ways(record):
    yield "soft weight-sharing", record["no XLA"], "ours"
    yield "soft weight-sharing, whole step under XLA", record["XLA"], "ours"
    yield "tfmot pruning", record["tfmot"], "prune"
    yield "tfmot clustering", record["tfmot"], "cluster"
    if "cluster_whole" in record["tfmot"]:
        title = "tfmot clustering, BatchNorm as in inference"
        yield title, record["tfmot"], "cluster_whole"


# The start.


def startup_table(record):
    """Headers and rows."""
    if "reason" in record:
        return ["", "seconds"], [["not measured", record["reason"]]]
    seconds = {
        "first step of plain fit": record["plain"]["first"],
        "wrap": record["wrap"],
        "first step, with all that it compiles": record["ours"]["first"],
        "strip": record["strip"],
    }
    return ["", "seconds"], [[name, f"{value:.1f}"] for name, value in seconds.items()]


TITLES = {
    "prior": "The prior alone: loss and all gradients",
    "components": "The prior with many components and with few, in turns",
    "holding": "Gradients held in between",
    "step": "A training step",
    "startup": f"The start, {STARTUP_NET}",
}
TABLES = {
    "prior": [prior_table],
    "components": [components_table],
    "holding": [holding_table, outcome_table],
    "step": [step_table],
    "startup": [startup_table],
}


def to_markdown(command, environment, results, bars):
    """The text that goes into docs/performance.md."""
    versions = ", ".join(f"{name} {value}" for name, value in environment.items())
    lines = [f"`{' '.join(command)}`", "", versions, ""]
    for part, result in results.items():
        lines += [f"### {TITLES[part]}", ""]
        for table in TABLES[part]:
            lines += [_table(*table(result)), ""]
    if not bars:
        return "\n".join(lines)
    rows = [
        [
            bar["bar"],
            bar["limit"],
            "" if bar["measured"] is None else f"{bar['measured']:.2f}",
            bar["verdict"],
        ]
        for bar in bars
    ]
    lines += ["### Bars", "", _table(["", "limit", "measured", ""], rows), ""]
    return "\n".join(lines)


def _table(headers, rows):
    padded = [row + [""] * (len(headers) - len(row)) for row in rows]
    return tabulate(padded, headers, tablefmt="github", disable_numparse=True)
