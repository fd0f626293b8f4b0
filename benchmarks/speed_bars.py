"""Whether the figures of speed.py reach what they are meant to."""

from benchmarks.speed_records import COMPONENTS, SIZES, STARTUP_NET, copies, find


def prior_bars(records):
    """Name, limit, whether the figure must lie above it, figure or `None`."""
    small, middle, large = SIZES

    def seconds(size, num_components, method="ours"):
        return find(records, size, num_components, method).get("seconds")

    for method in ("ours", "ours, in training"):
        yield (
            f"{method}: times faster than the published formula, 0.64 M weights, K = 16",
            40.0,
            True,
            _quotient(seconds(small, 16, "published"), seconds(small, 16, method)),
        )
    for size in (middle, large):
        taken = [
            copies(record)
            for record in (find(records, size, k) for k in COMPONENTS)
            if record.get("memory") is not None
        ]
        name = f"extra memory in float32 copies of {size / 1e6:g} M weights"
        yield name, 3.0, False, max(taken, default=None)
    for num_components in COMPONENTS:
        ratio = _quotient(seconds(large, num_components), seconds(middle, num_components))
        yield (
            f"time a weight at 100 M over that at 10 M, K = {num_components}",
            1.3,
            False,
            ratio and ratio * middle / large,
        )


def components_bars(records):
    """As `prior_bars`."""
    few, many = COMPONENTS
    for record in records:
        name = f"time with K = {many} over K = {few}, {record['weights'] / 1e6:g} M weights"
        yield name, 1.3, False, record.get("ratio")


def step_bars(records):
    """As `prior_bars`."""
    for record in records:
        net = record["net"]
        limit = 1.25 if net == "lenet-300-100" else 1.05
        for key, title in (("no XLA", "plain fit"), ("XLA", "plain fit, both under XLA")):
            ratio = record[key].get("ours", {}).get("ratio")
            yield f"{net}: step over {title}", limit, False, ratio
        clustering = record["tfmot"].get("cluster", {}).get("ratio")
        ours = record["no XLA"].get("ours", {}).get("ratio")
        name = f"{net}: our ratio over that of tfmot's clustering"
        yield name, 1.0, False, _quotient(ours, clustering)
        yield f"{net}: first step over that of plain fit", 1.25, False, first_step(record)


def first_step(record):
    """Seconds of the first step with all that it compiles, over those of plain `fit`."""
    cell = record["no XLA"]
    firsts = (cell.get(key, {}).get("first") for key in ("ours", "plain"))
    return _quotient(*firsts)


def startup_bars(record):
    """As `prior_bars`."""
    for key in ("wrap", "strip"):
        yield f"{STARTUP_NET}: seconds to {key}", 10.0, False, record.get(key)


def _quotient(numerator, denominator):
    return numerator / denominator if numerator and denominator else None


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
