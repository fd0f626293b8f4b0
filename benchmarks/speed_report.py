"""Tables of speed.py, and whether its figures reach what they are meant to."""

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
        baseline = _find(records, record["weights"], record["components"], "published")
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
    if _copies(record) < 1:
        # The gradient alone is a copy: it lies in what the start had already taken.
        return "too little to see", ""
    return f"{record['memory'] / 2**20:,.0f} MiB", f"{_copies(record):.1f}"


def _copies(record):
    return record["memory"] / (4 * record["weights"])


def _times(baseline, seconds):
    return f"{baseline / seconds:.1f}x" if baseline else ""


def _find(records, size, num_components, method="ours"):
    """The record of a cell; empty where it was not measured."""
    wanted = size, num_components, method
    found = (r for r in records if (r["weights"], r["components"], r["method"]) == wanted)
    return next(found, {})


def prior_bars(records):
    """Name, limit, whether the figure must lie above it, figure or `None`."""
    small, middle, large = SIZES

    def seconds(size, num_components, method="ours"):
        return _find(records, size, num_components, method).get("seconds")

    for method in ("ours", "ours, in training"):
        yield (
            f"{method}: times faster than the published formula, 0.64 M weights, K = 16",
            40.0,
            True,
            _quotient(seconds(small, 16, "published"), seconds(small, 16, method)),
        )
    for size in (middle, large):
        copies = [
            _copies(record)
            for record in (_find(records, size, k) for k in COMPONENTS)
            if record.get("memory") is not None
        ]
        name = f"extra memory in float32 copies of {size / 1e6:g} M weights"
        yield name, 3.0, False, max(copies, default=None)
    for num_components in COMPONENTS:
        ratio = _quotient(seconds(large, num_components), seconds(middle, num_components))
        yield (
            f"time a weight at 100 M over that at 10 M, K = {num_components}",
            1.3,
            False,
            ratio and ratio * middle / large,
        )


def _quotient(numerator, denominator):
    return numerator / denominator if numerator and denominator else None


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


def components_bars(records):
    """As `prior_bars`."""
    few, many = COMPONENTS
    for record in records:
        name = f"time with K = {many} over K = {few}, {record['weights'] / 1e6:g} M weights"
        yield name, 1.3, False, record.get("ratio")


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


def step_bars(records):
    """As `prior_bars`."""
    for record in records:
        net = record["net"]
        limit = 1.5 if net == "lenet-300-100" else 1.1
        for key, title in (("no XLA", "plain fit"), ("XLA", "plain fit, both under XLA")):
            ratio = record[key].get("ours", {}).get("ratio")
            yield f"{net}: step over {title}", limit, False, ratio
        clustering = record["tfmot"].get("cluster", {}).get("ratio")
        ours = record["no XLA"].get("ours", {}).get("ratio")
        name = f"{net}: our ratio over that of tfmot's clustering"
        yield name, 1.0, False, _quotient(ours, clustering)


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


def startup_bars(record):
    """As `prior_bars`."""
    for key in ("wrap", "strip"):
        yield f"{STARTUP_NET}: seconds to {key}", 10.0, False, record.get(key)


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
BARS = {
    "prior": prior_bars,
    "components": components_bars,
    "step": step_bars,
    "startup": startup_bars,
}


def judge(results):
    """What was to be reached, and whether it was."""
    records = []
    for part in filter(BARS.get, results):
        for name, limit, above, figure in BARS[part](results[part]):
            if figure is None:
                verdict = "not measured"
            else:
                met = figure >= limit if above else figure <= limit
                verdict = "met" if met else "missed"
            records.append(
                {
                    "bar": name,
                    "limit": f"{'at least' if above else 'at most'} {limit:g}",
                    "measured": figure,
                    "verdict": verdict,
                }
            )
    return records


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
