"""Reading a prepared corpus: its metadata, checked, and its rows by random access."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_jax import storage
from cola_jax.config.fields import DataConfig
from cola_jax.data.array_record_ranges import RecordRanges
from cola_jax.data.array_records import LazyRecordFiles, open_file
from cola_jax.data.errors import DataError, Warn
from cola_jax.data.object_cache import ObjectCache
from cola_jax.data.packing import Row, row
from cola_jax.storage import AnyPath

METADATA_NAME = "metadata.json"
VERSION = 1
SIDES = ("train", "heldout")
DIVIDING = ("generated_documents", "heldout_documents", "heldout_fraction", "on_bad_record")  # applied in preparing


class PreparedRows:
    """The rows of some shards by random access.

    Args:
      shards: file and rows of each, as in the metadata.
      cache: of whole shards in an object store; None: rows are read by ranges of bytes.
      skip: called with a line for a shard with rows that cannot be read, which become rows of weight 0; None: they are errors.
    """

    def __init__(
        self,
        folder: AnyPath,
        shards: Sequence[dict[str, Any]],
        length: int,
        cache: ObjectCache | None = None,
        skip: Warn | None = None,
    ):
        """Raises DataError if a shard is missing, truncated or has another number of rows than in its metadata."""
        self._length, self._skip, self._skipped = length, skip, Counter[str]()
        there = storage.sizes_in(folder)
        missing = [shard["file"] for shard in shards if shard["file"] not in there]
        if missing and skip is None:
            raise DataError(f"{folder} lacks {', '.join(missing)}: prepare it again")
        places = [folder / shard["file"] for shard in shards]

        def reader_of(which: int) -> Any:
            place = places[which]
            if not storage.is_remote(place):
                return open_file(str(place))
            if cache is not None:
                return open_file(str(cache.get(place)))
            read = lambda start, length: storage.read_range(place, start, length)
            return RecordRanges(read, there[place.name])

        self._records = LazyRecordFiles(list(map(str, places)), [shard["rows"] for shard in shards], reader_of)
        if not storage.is_remote(folder):
            self._open_all(folder, len(shards))

    def _open_all(self, folder: AnyPath, shards: int) -> None:
        for which in range(shards):
            try:
                self._records.source(which)
            except DataError as error:
                if self._skip is None:
                    raise DataError(f"{folder}: {error}; prepare it again") from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Row:
        """Raises DataError if the shard is damaged at this row, unless such rows are skipped."""
        try:
            return self._row(index)
        except DataError as error:
            if self._skip is None:
                raise
            self._report(index, error)
            empty = np.zeros(self._length, np.int32)
            return row(empty, empty, empty.astype(np.uint8))

    def _row(self, index: int) -> Row:
        record, length = self._records[index], self._length
        if len(record) != 9 * length:
            raise DataError(
                f"{self._records.where(index)} has {len(record)} bytes, a row of {length} tokens has {9 * length}:"
                " prepare it again"
            )
        tokens_L = np.frombuffer(record, "<i4", length)
        segments_L = np.frombuffer(record, "<i4", length, offset=4 * length)
        return row(tokens_L, segments_L, np.frombuffer(record, np.uint8, length, offset=8 * length))

    def _report(self, index: int, error: DataError) -> None:
        """Names the first row of a shard that cannot be read, and counts the others."""
        shard = self._records.where(index).split(" of ", 1)[1]
        self._skipped[shard] += 1
        total = sum(self._skipped.values())
        if self._skipped[shard] == 1 or total % 1000 == 0:
            self._skip(
                f"{error}. Rows that cannot be read have weight 0 (data.on_damaged_shard='skip'); {total} so far"
            )


def dividing(data: DataConfig) -> dict[str, Any]:
    """Returns the fields that select the documents of a corpus, by name; a prepared corpus stores them."""
    return {f"data.{name}": getattr(data, name) for name in DIVIDING}


def read_metadata(folder: AnyPath) -> dict[str, Any]:
    """Returns the metadata of a prepared corpus.

    Raises:
      DataError: if there is none, or it is of another version or damaged.
    """
    path = folder / METADATA_NAME
    if not path.is_file():
        raise DataError(
            f"data.sources.path: {folder} has no {METADATA_NAME}: not a prepared corpus, or not a complete one"
        )
    metadata = storage.read_json(path)
    version = metadata.get("version") if isinstance(metadata, dict) else None
    if version != VERSION:
        raise DataError(f"{path} has version {version!r}, this program reads {VERSION}: prepare it again")
    sources = metadata.get("sources")
    if not isinstance(metadata.get("data", {}), dict):
        raise DataError(f"{path} has a damaged field 'data': prepare it again")
    if not isinstance(sources, list) or not sources or not all(map(_is_source, sources)):
        raise DataError(f"{path} lacks its sources, or they are damaged: prepare it again")
    return metadata


def _is_source(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("weight"), (int, float))
        and 0 < entry["weight"] < math.inf
        and all(_is_side(entry.get(side)) for side in SIDES)
    )


def _is_side(side: Any) -> bool:
    shards = side.get("shards") if isinstance(side, dict) else None
    return isinstance(shards, list) and all(map(_is_shard, shards))


def _is_shard(shard: Any) -> bool:
    whole = isinstance(shard, dict) and isinstance(shard.get("file"), str) and isinstance(shard.get("rows"), int)
    return whole and shard["rows"] > 0


def disagreements(metadata: dict[str, Any], wanted: dict[str, Any], data: DataConfig) -> list[str]:
    """Returns the fields in which a corpus and a config differ, with both values.

    Args:
      wanted: the values that must be equal, by field.
      data: its fields that select documents must equal those of the preparation, or have their defaults.
    """
    lines = [
        f"{name}: prepared with {metadata.get(name)!r}, the config has {value!r}"
        for name, value in wanted.items()
        if metadata.get(name) != value
    ]
    defaults, prepared = dividing(DataConfig()), metadata.get("data", {})
    for name, value in dividing(data).items():
        if value != defaults[name] and value != prepared.get(name, value):
            lines.append(f"{name}: prepared with {prepared[name]!r}, the config has {value!r}")
    return lines
