"""What a config that cannot be run raises."""

from __future__ import annotations


class ConfigError(ValueError):
    """A config that cannot be run; the message names the field, what it was given and what it needs."""
