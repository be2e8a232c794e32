"""Files of object stores, kept on the local disk: fetched once, within a budget of bytes, the least recently used removed."""

from __future__ import annotations

import hashlib
import os
import threading
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
            try:
                os.utime(target)  # used now
                return target
            except FileNotFoundError:
                pass
            self._make_room(size)
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            storage.download(place, partial)
            os.replace(partial, target)
        return target

    def _make_room(self, size: int) -> None:
        """Removes the files that were used longest ago until `size` more bytes fit."""
        with self._lock:
            found = [(path.stat(), path) for path in self._folder.glob("*/*") if not path.name.endswith(".partial")]
            total = size + sum(stat.st_size for stat, _ in found)
            for stat, path in sorted(found, key=lambda item: item[0].st_mtime):
                if total <= self.budget:
                    return
                path.unlink(missing_ok=True)
                total -= stat.st_size


def cache_of(data: DataConfig) -> ObjectCache:
    """Returns the cache of data.cache_dir and data.cache_gib."""
    folder = (
        storage.local(data.cache_dir, "data.cache_dir") if data.cache_dir else Path.home() / ".cache/cola_jax/objects"
    )
    return ObjectCache(folder, int(data.cache_gib * 2**30))
