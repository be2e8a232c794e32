"""What interop refuses."""


class ReleasedFormatError(ValueError):
    """A released folder that cannot be used; the message names the file and the field or tensor."""
