"""Examples: each runs as a script; the benchmarks import the networks, data and steps."""
