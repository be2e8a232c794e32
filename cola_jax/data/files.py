"""The files that data.sources.path names: files, folders and globs, in a fixed order, and the files that were left out."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cola_jax import storage
from cola_jax.data.errors import DataError
from cola_jax.data.object_cache import ObjectCache
from cola_jax.storage import AnyPath

FIELD = "data.sources.path"
ENDINGS = {
    "text": (".txt", ".md", ".rst", ".text"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "array_record": (".array_record", ".arrayrecord"),
}
STREAMS = ("text", "jsonl")  # kinds that may be compressed
COMPRESSED = (".gz", ".bz2", ".zst")
BESIDE = {"state.json", "dataset_info.json", "dataset_dict.json"}  # metadata files of a dataset
SHOWN = 3  # number of endings that a message names


@dataclass
class Found:
    """Files of one source.

    Attributes:
      names: paths as given, in reading order, without empty files.
      relative: the same, relative to the folder that was named, so that they do not change if the corpus moves.
      empty: names of empty files.
      notes: warnings about files that were left out, one line each.
    """

    names: list[str] = field(default_factory=list)
    relative: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def add(self, names: Sequence[str], root: Path) -> None:
        """Adds files below `root`, each name once."""
        for name in names:
            self.add_one(name, os.path.relpath(name, root), name)

    def add_one(self, name: str, relative: str, given: str) -> None:
        """Adds one file, once per name that it was `given` by: the name that it is read by, and `relative`."""
        if given in self._seen:
            return
        self._seen.add(given)
        if os.stat(name).st_size == 0:
            self.empty.append(name)
        else:
            self.names.append(name)
            self.relative.append(relative)


def find(kind: str, paths: Sequence[str], cache: ObjectCache) -> Found:
    """Returns the files of paths, folders (searched recursively, by the endings of `kind`) and globs, sorted by entry.

    Links to folders are followed, each real folder once. Endings count in either case; text and jsonl may be compressed.

    Files of object stores are fetched into `cache`.

    Raises:
      DataError: if an entry does not exist, a link is broken, or every file is empty.
      StorageError: for a path that cannot be used.
    """
    found = Found()
    for entry in paths:
        path = given(entry)
        if storage.is_remote(path):
            _fetch(kind, path, entry, cache, found)
        elif path.is_dir():
            found.add(_in_folder(kind, path, entry, found.notes), path)
        elif path.is_file():
            found.add([str(path)], path.parent)
        elif path.is_symlink():
            raise DataError(f"{FIELD}: {entry!r} is a link to {os.readlink(path)}, which does not exist")
        else:
            found.add(_matches(path, entry, found.notes), _root(path))
    if found.empty and not found.names:
        which = f"{found.empty[0]} is empty" if len(found.empty) == 1 else f"all {len(found.empty)} files are empty"
        raise DataError(f"{FIELD}: {which}")
    return found


def given(entry: str) -> AnyPath:
    """Returns one entry of data.sources.path as a path.

    Raises:
      DataError: if it is empty. StorageError: for a path that cannot be used.
    """
    if not entry.strip():
        raise DataError(f"{FIELD} has an empty entry: name a file, a folder or a glob")
    return storage.path(entry, FIELD)


def given_local(entry: str, kind: str) -> Path:
    """Returns one entry of data.sources.path of a kind whose library reads local disks alone.

    Raises:
      DataError: if it is empty, or of an object store.
    """
    path = given(entry)
    if storage.is_remote(path):
        raise DataError(f"{FIELD}: data.sources.kind={kind!r} is read from a local disk: copy {entry} there")
    return path


def _fetch(kind: str, path: AnyPath, entry: str, cache: ObjectCache, found: Found) -> None:
    """Adds the files of `kind` that a path of an object store names: a file, a folder or a glob."""
    places = storage.files_of(path)
    inside = places if places == [path] else [place for place in places if has_ending(kind, place.name)]
    if not inside:
        marks = " or ".join(ENDINGS[kind])
        raise DataError(f"{FIELD}: {entry!r} names no object, and no {marks} file below it")
    size = sum(map(storage.size_of, inside))
    if size > cache.budget:  # the first files would be removed again before they are read
        raise DataError(
            f"{FIELD}: {entry!r} names {size / 2**30:.3g} GiB, more than data.cache_gib={cache.budget / 2**30:.3g}; raise it, "
            "or prepare the corpus, which is read without a cache too"
        )
    root = str(path.parent if inside == [path] or glob.has_magic(str(path)) else path)
    for place in inside:
        found.add_one(str(cache.get(place)), os.path.relpath(str(place), root), str(place))


def _in_folder(kind: str, root: Path, entry: str, notes: list[str]) -> list[str]:
    inside: list[str] = []
    other: Counter[str] = Counter()
    for path in _walk(root):
        name = os.path.basename(path)
        if not os.path.exists(path):
            if not name.startswith("."):  # an editor's lock file is such a link
                raise DataError(f"{FIELD}: {path} is a link to {os.readlink(path)}, which does not exist")
        elif os.path.isfile(path) and has_ending(kind, name):
            inside.append(path)
        elif name not in BESIDE and not _hidden(os.path.relpath(path, root)):
            other[os.path.splitext(name)[1].lower() or "no ending"] += 1
    marks = ENDINGS[kind]
    if not inside:
        raise DataError(f"{FIELD}: folder {entry!r} holds no {' or '.join(marks)} file{_named(other)}")
    if other:
        notes.append(
            f"{FIELD}: {other.total()} files of folder {entry!r} were not read, for kind {kind!r} reads"
            f" {', '.join(marks)}{_named(other)}"
        )
    return sorted(inside)


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in Path(path).parts)


def _named(other: Counter[str]) -> str:
    ranked = sorted(other.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {ending}" for ending, count in ranked[:SHOWN]]
    more = ["..."] if len(other) > SHOWN else []
    return f" (others: {', '.join(parts + more)})" if other else ""


def has_ending(kind: str, name: str) -> bool:
    """Returns whether a file's name has an ending of `kind`: data.jsonl, DATA.TXT.gz, a.array_record-00000-of-00008."""
    name = name.lower()
    if kind in STREAMS:
        name = next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)
    stem = name.split("-of-")[0].rsplit("-", 1)[0] if "-of-" in name else name
    return name.endswith(ENDINGS[kind]) or stem.endswith(ENDINGS[kind])


def _walk(root: Path) -> Iterator[str]:
    """Yields every file below a folder. Links to folders are followed last, so that a real path has priority over a link."""
    seen, waiting = set[str](), [str(root)]
    above = {str(parent) for parent in root.resolve().parents}  # a link to one of these would be a loop
    while waiting:
        links: list[str] = []
        for start in sorted(waiting):
            if os.path.realpath(start) in seen | above:
                continue
            for folder, folders, names in os.walk(start, onerror=_refuse):
                folders[:] = sorted(name for name in folders if _enter(os.path.join(folder, name), seen, links))
                seen.add(os.path.realpath(folder))
                yield from (os.path.join(folder, name) for name in names)
        waiting = links


def _enter(path: str, seen: set[str], links: list[str]) -> bool:
    """Returns whether to search a folder now; links to folders are searched later."""
    if os.path.islink(path):
        links.append(path)
        return False
    return os.path.realpath(path) not in seen


def _refuse(error: OSError) -> None:
    raise DataError(f"{FIELD}: {error.filename}: {storage.reason(error)}") from error


def _matches(path: Path, entry: str, notes: list[str]) -> list[str]:
    """Returns the files that a glob matches."""
    matched = sorted(glob.glob(str(path), recursive=True))
    gone = next((name for name in matched if not os.path.exists(name)), None)
    if gone:
        raise DataError(f"{FIELD}: {gone} is a link to {os.readlink(gone)}, which does not exist")
    inside = [name for name in matched if os.path.isfile(name)]
    if not inside:
        raise DataError(f"{FIELD}: {entry!r} names no file or folder, and matches none")
    folders = len(matched) - len(inside)
    if folders and "**" not in entry:
        notes.append(
            f"{FIELD}: {entry!r} matches {folders} folders too, whose files were not read; name the folder itself, or **"
        )
    return inside


def _root(pattern: Path) -> Path:
    """Returns the folder that a glob starts in: its parts before the first pattern."""
    parts = pattern.parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:first]) if first else Path()
