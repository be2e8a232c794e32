"""Training and held-out documents of a source of the config.

A generator makes both. A finite corpus is divided by a hash of each document's text: the same document is always on the
same side, independent of its position and number of occurrences.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cola_jax.config.fields import DataConfig, SourceConfig
from cola_jax.data import array_records, columns, files, pydocs, text_files, tinyworld
from cola_jax.data.errors import BadRecord, DataError
from cola_jax.data.object_cache import cache_of
from cola_jax.data.progress_bar import bar


class Documents(Protocol):
    """Texts by random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str: ...


@dataclass(frozen=True)
class Division:
    """The training and held-out documents of one source.

    Attributes:
      skipped: how many records were left out, by reason; empty if data.on_bad_record is refuse.
      notes: warnings about files that were left out, one line each.
    """

    train: Documents
    heldout: Documents
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generated:
    """`count` documents of a generator."""

    make: Callable[[int], str]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.make(index)


@dataclass(frozen=True)
class Chosen:
    """A subset of documents."""

    documents: Documents
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> str:
        return self.documents[self.indices[index]]


def name_of(source: SourceConfig) -> str:
    """Returns the name of a source in messages."""
    return f"{source.kind} {', '.join(source.path)}".strip()


def open_source(data: DataConfig, source: SourceConfig) -> Division:
    """Opens one source and divides it. Omissions are recorded in `skipped` and `notes`; nothing is printed.

    Raises:
      DataError: for missing or unreadable files, a missing field, a record that cannot be read (data.on_bad_record:
        refuse), or a corpus too small to hold any of it out.
    """
    if source.kind == "tinyworld":
        return Division(
            Generated(lambda i: tinyworld.story(data.seed, "train", i), data.generated_documents),
            Generated(lambda i: tinyworld.story(data.seed, "heldout", i), data.heldout_documents),
        )
    found = find(data, source)
    division = divide(_documents(source, found), data.heldout_fraction, name_of(source), data.on_bad_record)
    return _with_empty_files(division, found, data.on_bad_record)


def find(data: DataConfig, source: SourceConfig) -> files.Found:
    """Returns the files of a source; none if its kind has no files.

    Raises:
      DataError: see `files.find` and `columns.find_arrow`.
    """
    if source.kind == "arrow":
        return columns.find_arrow(source.path, source.split, cache_of(data))
    return files.find(source.kind, source.path, cache_of(data)) if source.kind in files.ENDINGS else files.Found()


def _documents(source: SourceConfig, found: files.Found) -> Documents:
    if source.kind == "pydocs":
        return pydocs.documents()
    if source.kind == "text":
        return text_files.TextFiles(found)
    if source.kind == "jsonl":
        return text_files.JsonLines(found, source.field)
    if source.kind == "parquet":
        return columns.ParquetFiles(found, source.field)
    if source.kind == "arrow":
        return columns.ArrowFiles(found, source.field)
    if source.kind == "array_record":
        return array_records.ArrayRecordFiles(found, source.field)
    if source.kind == "tfds":
        return array_records.PreparedTfds(source.path, source.field, source.split)
    if source.kind == "prepared":
        raise DataError(
            "data.sources.kind='prepared' holds packed tokens, not documents: prepare.open_prepared reads it"
        )
    raise DataError(f"data.sources.kind={source.kind!r} is not known")


def _with_empty_files(division: Division, found: files.Found, on_bad_record: str) -> Division:
    """Counts empty files as skipped, or notes them: they contain no record that could be bad."""
    count, skipped, notes = len(found.empty), dict(division.skipped), list(found.notes)
    if count and on_bad_record == "skip":
        skipped["empty file"] = count
    elif count:
        notes.append(f"{files.FIELD}: {count} empty files were left out, the first is {found.empty[0]}")
    return Division(division.train, division.heldout, skipped, tuple(notes))


def divide(documents: Documents, fraction: float, name: str, on_bad_record: str = "refuse") -> Division:
    """Holds out the documents whose hash falls below `fraction`, at least one unless it is 0; blank ones are left out.

    Args:
      on_bad_record: refuse | skip; records that cannot be read are counted by reason if they are skipped.

    Raises:
      DataError: if training or held-out documents would be empty; `name` is the source's name.
      BadRecord: for the first record that cannot be read, if on_bad_record is refuse.
    """
    places: dict[float, list[int]] = {}
    skipped: Counter[str] = Counter()
    for index in bar(range(len(documents)), f"reading {name}", "documents"):
        try:
            text = documents[index]
        except BadRecord as error:
            if on_bad_record == "refuse":
                raise
            skipped[error.reason] += 1
            continue
        if text.strip():
            places.setdefault(_hash(text), []).append(index)
    if len(places) < (1 if fraction == 0 else 2):
        raise DataError(
            f"{name}: {len(places)} distinct documents are too few for both training and held-out documents"
            f" (data.heldout_fraction={fraction}{_skipped(skipped)}); add text, or set data.heldout_fraction=0"
        )
    ordered = sorted(places)
    below = sum(value < fraction for value in ordered)
    count = 0 if fraction == 0 else min(max(below, 1), len(ordered) - 1)
    sides = (ordered[count:], ordered[:count])
    train, heldout = (sorted(index for value in side for index in places[value]) for side in sides)
    return Division(Chosen(documents, train), Chosen(documents, heldout), dict(skipped))


def _skipped(skipped: Mapping[str, int]) -> str:
    return f"; skipped: {by_reason(skipped)}" if skipped else ""


def by_reason(skipped: Mapping[str, int]) -> str:
    """Returns counts by reason as text, e.g. "3 null, 1 not JSON"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items(), key=lambda item: -item[1]))


def _hash(text: str) -> float:
    """Returns a number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48
