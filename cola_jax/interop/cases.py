"""The arrays of a golden folder, and the result of each case."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cola_jax.interop.errors import ReleasedFormatError

# Errors of numpy and zipfile for a file that is damaged, of another format, or contains Python objects.
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    AttributeError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Case:
    """The difference between one published array and ours.

    Attributes:
      name: as in cases.npz.
      absolute: the largest difference; infinite if the shapes differ.
      relative: absolute divided by the largest published magnitude.
      bound: on `absolute`; None if there is no verdict.
      note: further remarks.
    """

    name: str
    absolute: float
    relative: float
    bound: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.bound is None or self.absolute <= self.bound


def compare(name: str, ours: np.ndarray, published: np.ndarray, bound: float | None, note: str = "") -> Case:
    """Returns the differences of two arrays; a non-finite number has an infinite difference."""
    ours, published = np.asarray(ours, np.float64), np.asarray(published, np.float64)
    if ours.shape != published.shape:
        return Case(
            name, float("inf"), float("inf"), bound, f"shape {list(ours.shape)}, published {list(published.shape)}"
        )
    difference = np.abs(ours - published)
    absolute = float(np.max(np.where(np.isfinite(difference), difference, np.inf), initial=0.0))
    largest = float(np.max(np.abs(published), initial=0.0))
    return Case(name, absolute, absolute / largest if largest > 0 else absolute, bound, note)


class Cases:
    """The arrays of cases.npz; records which were read."""

    def __init__(self, arrays: dict[str, np.ndarray], path: Path):
        self._arrays, self._path, self._read = arrays, path, set()

    @classmethod
    def load(cls, path: Path) -> Cases:
        """Raises ReleasedFormatError if the file cannot be read."""
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in getattr(file, "files", ())}
        except DAMAGE as error:
            raise ReleasedFormatError(f"{path} cannot be read: {error}") from error
        strange = sorted(name for name, array in arrays.items() if array.dtype.kind not in "fiub")
        if strange or not arrays:
            what = f"arrays that are no numbers: {', '.join(strange)}" if strange else "no arrays"
            raise ReleasedFormatError(f"{path} holds {what}")
        return cls(arrays, path)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises ReleasedFormatError if there is no such array."""
        if name not in self._arrays:
            raise ReleasedFormatError(f"{self._path} has no array {name}")
        self._read.add(name)
        return self._arrays[name]

    def number(self, name: str) -> int | float:
        """Returns an array of one number; raises ReleasedFormatError for any other."""
        if self[name].size != 1:
            raise ReleasedFormatError(f"{self._path}: {name} is {list(self[name].shape)}, expected one number")
        return self[name].item()

    def check_ranks(self, ranks: dict[str, int]) -> None:
        """Raises ReleasedFormatError if an array NAME or NAME.i has another number of axes than `ranks` has for NAME."""
        for name, array in self._arrays.items():
            known = ranks.get(name, ranks.get(name.rpartition(".")[0]))
            if known is not None and (array.ndim != known or not array.size):
                raise ReleasedFormatError(f"{self._path}: {name} is {list(array.shape)}, expected {known} axes")

    def numbered(self, name: str) -> list[np.ndarray]:
        """Returns NAME.0, NAME.1, ... as far as they exist."""
        return [self[f"{name}.{i}"] for i in itertools.takewhile(lambda i: f"{name}.{i}" in self, itertools.count())]

    def starting(self, prefix: str) -> list[str]:
        """Returns the distinct first parts ("gen0") of names that start with `prefix`, in order of their number."""
        heads = {name.split(".")[0] for name in self._arrays if name.startswith(prefix)}
        return sorted(heads, key=lambda head: (len(head), head))

    def unread(self) -> list[str]:
        """Returns the names of arrays that were not read."""
        return sorted(set(self._arrays) - self._read)
