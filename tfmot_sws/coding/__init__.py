"""The `.sws` file: stripped models as bytes and back; the format is in docs/format.md.

Owns the codes, the container and the stored architecture. Imports `models`.
"""
