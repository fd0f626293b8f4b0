"""Tables of a run of the real networks."""

import collections
import statistics

from benchmarks import common

DENSE, OURS = ("dense", "trained on"), "sws"
PEERS = ("tfmot", "qat", "int8", "nncodec")
TITLES = {
    "dense": "dense",
    "sws": "soft weight-sharing",
    "tfmot": "tfmot prune + cluster, gzip",
    "qat": "clustering without a prior",
    "int8": "int8 of dense, gzip",
    "nncodec": "NNCodec on dense",
}
COLUMNS = ("validation", "test", "points", "bytes", "smaller by", "time", "remark")
FIGURES = ("validation error", "test error", "bytes", "seconds")


def to_markdown(record):
    """Command and environment, the comparison, and a section for each network."""
    blocks = [common.to_header(record)]
    blocks += [common.to_header(later) for later in record["continued"]]
    blocks += [common.to_section("overview", _overview(record))]
    for network in record["networks"]:
        rows = [row for row in record["rows"] if row["network"] == network]
        text = f"{_describe(record['networks'][network])}\n\n{_table(rows)}"
        blocks += [f"## {network}", common.to_section(network, text)]
    return common.join(*blocks)


# One network.


def _describe(info):
    """What a reader has to know before the figures."""
    lines = [
        f"Measured: {info['metric']}. "
        f"Pretraining: {_describe_training(info['pretraining'])}. "
        f"Then: {_describe_training(info['tuning'])}.",
        info["note"],
    ]
    return " ".join(filter(None, lines))


def _describe_training(training):
    falls = "cosine" if training["falling"] else "constant"
    return (
        f"{training['epochs']} epochs, {training['optimizer']} {training['rate']:g} {falls}, "
        f"batches of {training['batch_size']}"
    )


def _table(rows):
    """The rows of each seed, and the means where there are several."""
    lines = []
    for seed, of_seed in _group(rows, "seed").items():
        shown = [*_without_many_settings(of_seed)]
        lines += [[str(seed), *_cells(row, find_dense(of_seed))] for row in shown]
    means = average(rows)
    if len(_group(rows, "seed")) > 1:
        dense = find_dense(means)
        lines += [["mean", *_cells(row, dense)] for row in _without_many_settings(means)]
    align = ["left"] * 3 + ["right"] * 6 + ["left"]
    return common.to_table(["seed", "recipe", "setting", *COLUMNS], lines, align)


def _without_many_settings(rows):
    """The rows, but of NNCodec's many settings only the one that counts."""
    coded = [row for row in _finished(rows) if row["recipe"] == "nncodec"]
    others = [row for row in rows if row["recipe"] != "nncodec"]
    failed = [row for row in rows if row["recipe"] == "nncodec" and row not in coded]
    if coded:
        return [*others, common.pick(coded, _limit(rows))]
    return [*others, *failed[:1]]


def _limit(rows):
    """The validation error that a peer may have: that of soft weight-sharing, or dense."""
    ours = find_ours(rows) or find_dense(rows)
    return ours["validation error"] if ours else float("inf")


def _cells(row, dense):
    """The cells of a row behind its seed."""
    cells = [TITLES[row["recipe"]], row["setting"]]
    if "problem" in row:
        return [*cells, *[""] * 6, row["problem"]]
    share = row.get("share of kernels clustered", 1.0)
    return [
        *cells,
        f"{row['validation error']:.2%}",
        f"{row['test error']:.2%}",
        _points(row, dense),
        f"{row['bytes']:,.0f}",
        f"{row['dense bytes'] / row['bytes']:.1f}",
        _time(row, dense),
        f"{share:.0%} of the kernels" if share < 1.0 else "",
    ]


def _points(row, dense):
    """Points of test error above the dense network that was trained as long."""
    return f"{100 * (row['test error'] - dense['test error']):+.2f}" if dense else ""


def _time(row, dense):
    """Seconds as a multiple of those of the dense network."""
    if not dense or not row.get("seconds"):
        return ""
    return f"{row['seconds'] / dense['seconds']:.2f}"


# All networks.


def _overview(record):
    """Which recipe is smallest at the error of soft weight-sharing, network by network."""
    lines = []
    for network, rows in _group(record["rows"], "network").items():
        means = average(rows)
        dense, ours = find_dense(means), find_ours(means)
        chosen = {OURS: ours} | {peer: pick_peer(means, peer, ours or dense) for peer in PEERS}
        lines.append(
            [
                network,
                record["networks"][network]["metric"],
                f"{dense['test error']:.2%}" if dense else "",
                *(_summary(row, dense) for row in chosen.values()),
                _smallest(chosen),
            ]
        )
    headers = ["network", "measured", "dense", *(TITLES[r] for r in (OURS, *PEERS)), "smallest"]
    caption = (
        "Test error of the dense network trained as long; then bytes, how many times smaller "
        "than dense and points of test error above it, means over the seeds. Of each peer's "
        "settings counts the smallest whose validation error is no higher than that of soft "
        "weight-sharing, else the most accurate, which is in brackets and cannot win."
    )
    return f"{caption}\n\n{common.to_table(headers, lines)}"


def pick_peer(means, peer, reference):
    """The setting of a peer that counts; marked where it is less accurate."""
    rows = [row for row in means if row["recipe"] == peer]
    if not rows or not reference:
        return None
    limit = reference["validation error"]
    row = common.pick(rows, limit)
    return {**row, "worse": row["validation error"] > limit}


def _summary(row, dense):
    if not row:
        return ""
    ratio = row["dense bytes"] / row["bytes"]
    text = f"{row['bytes']:,.0f}, {ratio:.1f}x, {_points(row, dense)}"
    return f"({text})" if row.get("worse") else text


def _smallest(chosen):
    """The recipe with the fewest bytes among those that are accurate enough."""
    rivals = {r: row["bytes"] for r, row in chosen.items() if row and not row.get("worse")}
    return TITLES[min(rivals, key=rivals.get)] if rivals else ""


# Rows.


def average(rows):
    """Means over the seeds of each setting of each recipe, of those that have ended."""
    groups = collections.defaultdict(list)
    for row in _finished(rows):
        groups[row["recipe"], row["setting"]].append(row)
    return [_mean(group) for group in groups.values()]


def _mean(rows):
    figures = {
        name: statistics.mean(row[name] for row in rows)
        for name in FIGURES
        if all(name in row for row in rows)
    }
    return {**rows[0], **figures}


def _finished(rows):
    return [row for row in rows if "problem" not in row]


def _group(rows, name):
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row[name]].append(row)
    return groups


def find_dense(rows):
    """The dense network that was trained as long, if it has ended."""
    found = (row for row in _finished(rows) if (row["recipe"], row["setting"]) == DENSE)
    return next(found, None)


def find_ours(rows):
    """Soft weight-sharing as by default, or else with the first of its settings."""
    found = [row for row in _finished(rows) if row["recipe"] == OURS]
    return min(found, key=lambda row: row["setting"] != "default", default=None)
