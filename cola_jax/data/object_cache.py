"""Files of object stores, kept on the local disk: fetched once, within a budget of bytes, the least recently used removed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from cola_jax import storage
from cola_jax.config.fields import DataConfig
from cola_jax.data.errors import DataError
from cola_jax.storage import AnyPath


class ObjectCache:
    """A folder of fetched files. Several processes may share it.

    Attributes:
      budget: bytes of all files together.
    """

    def __init__(self, folder: Path, budget: int):
        self._folder, self.budget = folder, budget
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, place: AnyPath) -> Path:
        """Returns a local copy of an object, fetched if there is none of its present version.

        Raises:
          DataError: if it does not exist, or is larger than the budget.
        """
        try:
            size, version = storage.version_of(place)
        except FileNotFoundError as error:
            raise DataError(f"{place} does not exist") from error
        if size > self.budget:
            raise DataError(f"{place} has {size / 2**30:.3g} GiB, more than data.cache_gib={self.budget / 2**30:.3g}")
        key = hashlib.sha256(f"{place} {size} {version}".encode()).hexdigest()[:24]
        target = self._folder / key / place.name
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            with suppress(FileNotFoundError):
                _mark_used(target)
                return target
            self._make_room(size)
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            storage.download(place, partial)
            os.replace(partial, target)
            _mark_used(target)
        return target

    def _make_room(self, size: int) -> None:
        """Removes the files that were used longest ago until `size` more bytes fit."""
        with self._lock:
            found = []
            for path in self._folder.glob("*/*"):
                with suppress(FileNotFoundError):  # another process removes files too
                    found += [] if path.name.endswith(".partial") else [(path.stat(), path)]
            total = size + sum(stat.st_size for stat, _ in found)
            for stat, path in sorted(found, key=lambda item: item[0].st_mtime_ns):
                if total <= self.budget:
                    return
                path.unlink(missing_ok=True)
                total -= stat.st_size


def _mark_used(path: Path) -> None:
    """Sets the time of a file to now, finer than the clock of the file system: it orders what is removed."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def cache_of(data: DataConfig) -> ObjectCache:
    """Returns the cache of data.cache_dir and data.cache_gib."""
    folder = (
        storage.local(data.cache_dir, "data.cache_dir") if data.cache_dir else Path.home() / ".cache/cola_jax/objects"
    )
    return ObjectCache(folder, int(data.cache_gib * 2**30))
