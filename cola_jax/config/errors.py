"""The error of a config that cannot be run."""

from __future__ import annotations

from cola_jax.errors import UserError


class ConfigError(UserError):
    """A config that cannot be run; the message names the field, its value and what it must be."""
