"""The one error that a file which cannot be read ends in."""


class CompressedFileError(ValueError):
    """A `.sws` file is damaged, hostile, of another version, or not one at all."""
