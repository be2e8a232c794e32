"""A source of the config -> its training and its held-out documents.

A generator draws both. A finite corpus is divided by a hash of each document's text: the same document is always on the
same side, wherever it stands and however often it occurs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from cola_jax.config.fields import DataConfig, SourceConfig
from cola_jax.data import formats, pydocs, tinyworld
from cola_jax.data.errors import DataError

SHOW_AFTER = 5.0  # seconds after which slow work shows its progress on stderr


class Documents(Protocol):
    """Texts by random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str: ...


@dataclass(frozen=True)
class Division:
    """The two sides of one source."""

    train: Documents
    heldout: Documents


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
    """Some documents of others."""

    documents: Documents
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> str:
        return self.documents[self.indices[index]]


def open_source(data: DataConfig, source: SourceConfig) -> Division:
    """Opens one source and divides it.

    Raises:
      DataError: for missing, empty or unreadable files, a missing field, or a corpus too small to hold any of it out.
    """
    if source.kind == "tinyworld":
        return Division(
            Generated(lambda i: tinyworld.story(data.seed, "train", i), data.generated_documents),
            Generated(lambda i: tinyworld.story(data.seed, "heldout", i), data.heldout_documents),
        )
    name = f"{source.kind} {', '.join(source.path)}".strip()
    return divide(_documents(source), data.heldout_fraction, name)


def _documents(source: SourceConfig) -> Documents:
    if source.kind == "pydocs":
        return pydocs.documents()
    if source.kind == "text":
        return formats.TextFiles(source.path)
    if source.kind == "jsonl":
        return formats.JsonLines(source.path, source.field)
    if source.kind == "parquet":
        return formats.ParquetFiles(source.path, source.field)
    if source.kind == "array_record":
        return formats.ArrayRecordFiles(source.path, source.field)
    if source.kind == "tfds":
        return formats.PreparedTfds(source.path, source.field, source.split)
    if source.kind == "prepared":
        raise DataError(
            "data.sources.kind='prepared' holds packed tokens, not documents: prepare.open_prepared reads it"
        )
    raise DataError(f"data.sources.kind={source.kind!r} is not known")


def divide(documents: Documents, fraction: float, name: str) -> Division:
    """Holds out the documents whose hash falls below `fraction`, at least one unless it is 0; blank ones are left out.

    Raises:
      DataError: where a side would have no document; `name` says of which source.
    """
    places: dict[float, list[int]] = {}
    for index in tqdm(range(len(documents)), f"reading {name}", delay=SHOW_AFTER, unit=" documents"):
        text = documents[index]
        if text.strip():
            places.setdefault(_hash(text), []).append(index)
    if len(places) < (1 if fraction == 0 else 2):
        raise DataError(
            f"{name}: {len(places)} distinct documents are too few to train on some and hold out others"
            f" (data.heldout_fraction={fraction}); add text, or set data.heldout_fraction=0"
        )
    ordered = sorted(places)
    below = sum(value < fraction for value in ordered)
    count = 0 if fraction == 0 else min(max(below, 1), len(ordered) - 1)
    sides = (ordered[count:], ordered[:count])
    train, heldout = (sorted(index for value in side for index in places[value]) for side in sides)
    return Division(Chosen(documents, train), Chosen(documents, heldout))


def _hash(text: str) -> float:
    """Returns a number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48
