"""The one error of the data room."""

from cola_jax.errors import UserError


class DataError(UserError):
    """Data that cannot be used: the message names the file or field, what it holds and what it should hold."""
