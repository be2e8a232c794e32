"""The errors and warnings of the data room."""

from __future__ import annotations

import sys
from collections.abc import Callable

from cola_jax.errors import UserError

Warn = Callable[[str], None]


class DataError(UserError):
    """Data that cannot be used: the message names the file or field, what it holds and what it should hold."""


class WriteError(DataError):
    """Data that could not be written: the disk is full, or the place may not be written to."""

    exit_status = 1


class BadRecord(DataError):
    """A record that cannot be read; data.on_bad_record says what happens then.

    Attributes:
      reason: in a few words, for counting.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def to_stderr(line: str) -> None:
    """Prints a warning: what the user may not know of, and what need not stop the run."""
    print(f"warning: {line}", file=sys.stderr, flush=True)
