"""Real networks under soft weight-sharing, and under what one would do instead."""

from benchmarks.real_networks import digits, photos, series, shapes, tables, texts

# Quickest first.
NETWORKS = {
    network.name: network
    for module in (tables, digits, texts, series, shapes, photos)
    for network in module.NETWORKS
}

__all__ = ["NETWORKS"]
