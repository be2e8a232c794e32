"""The errors of package `interop`."""

from cola_jax.errors import UserError


class ReleasedFormatError(UserError):
    """A released folder that cannot be used; the message names the file and the field or tensor."""
