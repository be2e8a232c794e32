"""What a config that cannot be run raises."""

from __future__ import annotations

from cola_jax.errors import UserError


class ConfigError(UserError):
    """A config that cannot be run; the message names the field, what it was given and what it needs."""
