"""Defines the one error that reading a bad file raises."""


class CompressedFileError(ValueError):
    """A `.sws` file is damaged, hostile, of another version, or not one at all."""
