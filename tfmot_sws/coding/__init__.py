"""Writes stripped models to `.sws` files and reads them back; see docs/format.md.

Holds the codes, the container and the stored architecture. Imports `models`.
"""
