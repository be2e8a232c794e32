"""The base class of errors that a command prints as one line; any other exception is a bug."""

from __future__ import annotations


class UserError(ValueError):
    """An error that the user, or the machine's owner, can fix; the message says what is wrong and what to do.

    Attributes:
      exit_status: of a command that ends with it: 2 usage error (config, data, options), 1 failure (a run that cannot
        continue).
    """

    exit_status = 2


class Preempted(Exception):
    """A signal has ended a run, after its checkpoint: the same command continues it."""


class ConfigWarning(UserWarning):
    """A valid config that sets fields which are not read; the message names them."""
