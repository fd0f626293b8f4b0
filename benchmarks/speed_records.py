"""The records that speed.py makes: what they are of, and how to find and sum them up."""

import statistics

SIZES = (640_000, 10_000_000, 100_000_000)
COMPONENTS = (16, 64)
STARTUP_NET = "resnet-50"


def find(records, size, num_components, method="ours"):
    """The record of a cell; empty where it was not measured."""
    wanted = size, num_components, method
    found = (r for r in records if (r["weights"], r["components"], r["method"]) == wanted)
    return next(found, {})


def copies(record):
    """Of the weights in float32, as much as a cell took beyond them."""
    return record["memory"] / (4 * record["weights"])


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
