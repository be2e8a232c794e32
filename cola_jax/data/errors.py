"""The one error of the data room."""


class DataError(ValueError):
    """Data that cannot be used: the message names the file or field, what it holds and what it should hold."""
