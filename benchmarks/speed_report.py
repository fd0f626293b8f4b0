"""Tables of speed.py, each in a section that the documentation can include."""

import statistics

from benchmarks import common, speed_bars
from benchmarks.speed_records import COMPONENTS, STARTUP_NET, copies, find


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


def _times(baseline, seconds):
    return f"{baseline / seconds:.1f}x" if baseline else ""


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


def step_table(record):
    """Headers and rows of one network, a row for each way to train."""
    headers = [record["net"], "plain fit", "step", "ratio", "95 %", "more an epoch"]
    return headers, [[title, *_step_cells(cell, key)] for title, cell, key in _ways(record)]


def _step_cells(cell, key):
    if "reason" in cell or "reason" in cell[key]:
        return [cell.get("reason") or cell[key]["reason"]]
    plain, own = cell["plain"], cell[key]
    return [
        f"{1e3 * plain['spread']:,.2f} ms",
        f"{1e3 * own['spread']:,.2f} ms",
        f"**{own['ratio']:.2f}**",
        _interval_cell(own),
        f"{own['epoch'] - plain['epoch']:+.2f} s",
    ]


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


def overview_table(records):
    """Headers and rows: a row a network, every figure but the first over plain `fit`'s."""
    ways = dict.fromkeys(title for record in records for title, _, _ in _ways(record))
    headers = ["network", "plain fit", *ways, "first step"]
    rows = []
    for record in records:
        ratios = dict.fromkeys(ways, "")
        ratios |= {title: _ratio_cell(cell, key) for title, cell, key in _ways(record)}
        plain, first = record["no XLA"].get("plain"), speed_bars.first_step(record)
        rows.append(
            [
                record["net"],
                f"{1e3 * plain['spread']:,.1f} ms" if plain else "",
                *ratios.values(),
                f"{first:.2f}" if first else "",
            ]
        )
    return headers, rows


def _ratio_cell(cell, key):
    ratio = cell.get(key, {}).get("ratio")
    return f"{ratio:.2f}" if ratio else ""


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


# The whole text.


def to_markdown(record):
    """Command, environment, and for each part its tables and the bars that judge them.

    The bars are those of today's speed_bars.py, whatever the run printed at its time.
    """
    blocks = [common.to_section("run", common.to_header(record))]
    if "step" in record:
        table = common.to_table(*overview_table(record["step"]))
        blocks += ["### Steps over those of plain fit", common.to_section("overview", table)]
    if bars := _bars({part: record[part] for part in PARTS if part in record}):
        blocks += ["### What is met", common.to_section("bars", *bars)]
    for part, write in PARTS.items():
        if part in record:
            blocks += [f"### {TITLES[part]}", *write(part, record[part])]
    return common.join(*blocks)


def _one_section(part, result):
    tables = [common.to_table(*table(result)) for table in TABLES[part]]
    yield common.to_section(part, "\n\n".join([*tables, *_bars({part: result})]))


def _section_a_net(part, records):
    for record in records:
        tables = [common.to_table(*step_table(record)), *_bars({part: [record]})]
        yield common.to_section(record["net"], "\n\n".join(tables))


def _bars(results):
    """The table of bars, in a list; empty where there are none."""
    rows = [
        [
            bar["bar"],
            bar["limit"],
            "" if bar["measured"] is None else f"{bar['measured']:.2f}",
            bar["verdict"],
        ]
        for bar in speed_bars.judge(results)
    ]
    return [common.to_table(["bar", "limit", "measured", ""], rows)] if rows else []


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
    "startup": [startup_table],
}
# In their order; a network has a section of its own, since runs took different ones.
PARTS = {
    "prior": _one_section,
    "components": _one_section,
    "holding": _one_section,
    "step": _section_a_net,
    "startup": _one_section,
}
