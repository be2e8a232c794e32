"""The one class of errors that a command prints as a line; any other exception is a bug."""

from __future__ import annotations


class UserError(ValueError):
    """What the user, or the machine's owner, can put right; the message says what is wrong and what to do.

    Attributes:
      exit_status: of a command that ends with it: 2 misused (config, data, options), 1 failed (a run that could not go on).
    """

    exit_status = 2


class Preempted(Exception):
    """A signal has ended a run, after its checkpoint: the same command continues it."""


class ConfigWarning(UserWarning):
    """A config that runs, though not everything that it sets is read; the message names the fields."""
