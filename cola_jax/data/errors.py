"""The errors and warnings of package `data`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from cola_jax.errors import UserError

Warn = Callable[[str], None]


class DataError(UserError):
    """Data that cannot be used: the message names the file or field, what was found and what was expected."""


class WriteError(DataError):
    """Data that could not be written: the disk is full, or the folder is not writable."""

    exit_status = 1


class BadRecord(DataError):
    """A record that cannot be read; handled as data.on_bad_record specifies.

    Attributes:
      reason: a short category, for counts.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def to_stderr(line: str) -> None:
    """Prints a warning that does not stop the run."""
    print(f"warning: {line}", file=sys.stderr, flush=True)
