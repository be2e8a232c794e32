"""The compilation cache of a run: jax keeps compiled programs in a folder, also of an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental.compilation_cache import compilation_cache

from cola_jax import storage
from cola_jax.config import ConfigError
from cola_jax.storage import AnyPath

FIELD = "compute.compilation_cache"


@contextmanager
def cached_programs(given: str) -> Iterator[None]:
    """Lets jax read and write the programs that are compiled in the body in a folder; "" leaves jax as it is.

    jax itself only warns about a cache that cannot be used, and tries again for every program: access is checked before.

    Args:
      given: compute.compilation_cache.

    Raises:
      ConfigError: if the folder cannot be written. StorageError: if the bucket cannot be reached.
    """
    if not given:
        yield
        return
    folder = _usable(storage.path(given, FIELD))
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": os.fspath(folder),
        "jax_compilation_cache_max_size": -1,  # a limit needs a lock file, which an object store does not have
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    if storage.is_remote(folder):
        settings["jax_persistent_cache_enable_xla_caches"] = ""  # XLA's own caches are files of a local disk
    before = {name: getattr(jax.config, name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _usable(folder: AnyPath) -> AnyPath:
    """Returns the folder, which jax makes when it has a program to write; errors as in `cached_programs`."""
    if storage.is_remote(folder):
        storage.check_access(folder)
        return folder
    folder = storage.absolute(folder)
    present = next(part for part in (folder, *folder.parents) if part.exists())
    if not present.is_dir():
        raise ConfigError(f"{FIELD}={folder}: {present} is a file; give a folder")
    if not os.access(present, os.W_OK | os.X_OK):
        raise ConfigError(f"{FIELD}={folder}: {present} cannot be written; give another folder")
    return folder


def _set(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # jax looks at its settings once
