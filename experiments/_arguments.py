"""Parses the argument of a config, NAME:PART,PART,...; every part is used or refused."""

from pathlib import Path

from cola_jax import config


def parts_of(usage: str, arg: str | None, least: int, most: int) -> list[str]:
    """Returns the parts of an argument, `most` of them: those left out are "".

    Args:
      usage: the form of the argument, for the message: "cola_2b:vae,PREPARED".
      least: number of required parts.

    Raises:
      ConfigError: for too few or too many parts.
    """
    parts = (arg or "").split(",")
    if len(parts) > most:
        raise config.ConfigError(f"the argument {arg!r} has {len(parts) - most} parts too many: give {usage}")
    if not all(parts[:least]) or len(parts) < least:
        raise config.ConfigError(f"the argument {arg or ''!r} lacks a part: give {usage}")
    return parts + [""] * (most - len(parts))


def paths_of(parts: list[str]) -> tuple[str, ...]:
    """Returns a list of files, folders and globs; one path if a comma is part of its name."""
    whole = ",".join(parts)
    return (whole,) if len(parts) > 1 and Path(whole).expanduser().exists() else tuple(parts)
