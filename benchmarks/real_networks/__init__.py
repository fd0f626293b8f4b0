"""Real networks under soft weight-sharing, and under what one would do instead."""

from benchmarks.real_networks import digits, photos, series, shapes, tables, texts
from benchmarks.real_networks.report import to_markdown

# Quickest first.
NETWORKS = {
    network.name: network
    for module in (tables, digits, texts, series, shapes, photos)
    for network in module.NETWORKS
}

__all__ = ["NETWORKS", "to_markdown"]
