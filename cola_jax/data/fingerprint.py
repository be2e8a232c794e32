"""Content fingerprint of a run's corpus: a run that continues must have the corpus that it started with.

    WORKDIR/corpus.json   {"version": 1, "sources": {"data.sources.0 (text)": "a hash", ...}}

The hash of a source of files covers, in the order of reading, every file's path relative to the folder that was named, its size
and its bytes: all of them if the source has up to WHOLE bytes, else PIECES pieces of PIECE bytes of each file, at
equal distances from start to end. Paths above that folder and modification times are ignored, so a corpus may move. A
change inside a large file that keeps its size and is between the pieces is not detected. Generators are hashed by their
stories, pydocs by its documents, a prepared corpus by the fingerprint of its rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

from cola_jax import storage
from cola_jax.config import RunConfig
from cola_jax.config.fields import DataConfig, SourceConfig
from cola_jax.data import array_records, pydocs, tinyworld
from cola_jax.data.errors import DataError, Warn, to_stderr
from cola_jax.data.files import given
from cola_jax.data.prepared_rows import METADATA_NAME, read_metadata
from cola_jax.data.sources import find
from cola_jax.storage import AnyPath

FILE_NAME = "corpus.json"
VERSION = 1
WHOLE = 64 * 2**20  # a source up to this many bytes is hashed completely
PIECES = 16  # pieces per file of a larger source
PIECE = 4096  # bytes
STORIES = 4  # stories of each split that represent the generator


def fingerprint(cfg: RunConfig) -> dict[str, str]:
    """Returns a hash of every source by its name in messages, "data.sources.0 (text)".

    Raises:
      DataError: if a source does not exist.
    """
    return {
        f"data.sources.{index} ({source.kind})": _of_source(cfg.data, source)
        for index, source in enumerate(cfg.data.sources)
    }


def _of_source(data: DataConfig, source: SourceConfig) -> str:
    if source.kind == "tinyworld":
        return _of_world(data)
    if source.kind == "pydocs":
        return _hash(document.encode() for document in pydocs.documents())
    if source.kind == "prepared":
        return _of_prepared(given(source.path[0]))
    if source.kind == "tfds":
        return _of_tfds(source)
    found = find(data, source)
    return _of_files(found.names, found.relative)


def _of_world(data: DataConfig) -> str:
    counts = [("train", data.generated_documents), ("heldout", data.heldout_documents)]
    stories = [tinyworld.story(data.seed, split, i) for split, count in counts for i in range(min(count, STORIES))]
    return _hash(text.encode() for text in [json.dumps(counts), *stories])


def _of_prepared(folder: AnyPath) -> str:
    sources = read_metadata(folder)["sources"]
    if all(isinstance(entry.get("fingerprint"), str) for entry in sources):
        return _hash(f"{entry['fingerprint']} {float(entry['weight'])}".encode() for entry in sources)
    shards = [shard["file"] for entry in sources for side in ("train", "heldout") for shard in entry[side]["shards"]]
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}, which its {METADATA_NAME} names: prepare it again")
    return _of_files([str(folder / name) for name in shards], shards)


def _of_tfds(source: SourceConfig) -> str:
    splits = array_records.tfds_builder(source.path).info.splits
    if source.split not in splits:
        known = ", ".join(sorted(splits)) or "none"
        raise DataError(
            f"tfds dataset {source.path[0]!r} has no split data.sources.split={source.split!r}; it has: {known}"
        )
    names = sorted(str(path) for path in splits[source.split].filepaths)
    return _of_files(names, [os.path.basename(name) for name in names])


def _of_files(names: list[str], relative: list[str]) -> str:
    try:
        sizes = [os.stat(name).st_size for name in names]
        whole = sum(sizes) <= WHOLE
        return _hash(
            part
            for name, below, size in zip(names, relative, sizes)
            for part in (json.dumps([below, size]).encode(), _of_content(name, size, whole))
        )
    except OSError as error:
        raise DataError(f"{error.filename}: {storage.reason(error)}") from error


def _of_content(name: str, size: int, whole: bool) -> bytes:
    """Returns the hash of a file's bytes, or of its pieces."""
    content = hashlib.blake2b(digest_size=16)
    with open(name, "rb") as file:
        if whole or size <= PIECES * PIECE:
            while block := file.read(2**20):
                content.update(block)
        else:
            for k in range(PIECES):
                file.seek(k * (size - PIECE) // (PIECES - 1))
                content.update(file.read(PIECE))
    return content.digest()


def _hash(parts: Iterable[bytes]) -> str:
    content = hashlib.blake2b(digest_size=16)
    for part in parts:
        content.update(len(part).to_bytes(8, "little") + part)
    return content.hexdigest()


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Returns one line for every source that changed."""
    lines = [f"{name} holds other documents" for name in old if name in new and old[name] != new[name]]
    lines += [f"{name} is gone" for name in old if name not in new]
    return lines + [f"{name} is new" for name in new if name not in old]


def record(path: str | AnyPath, cfg: RunConfig) -> None:
    """Writes the fingerprint of a run's corpus into its corpus.json.

    Raises:
      DataError: see `fingerprint`.
    """
    storage.write_json(storage.path(path), {"version": VERSION, "sources": fingerprint(cfg)})


def check_unchanged(path: str | AnyPath, cfg: RunConfig, warn: Warn = to_stderr) -> None:
    """Compares a run's corpus with its corpus.json; a workdir that has none is not checked.

    Args:
      warn: called with the line if data.on_changed_corpus is warn.

    Raises:
      DataError: if the corpus changed and data.on_changed_corpus is refuse, or corpus.json is damaged.
    """
    path, policy = storage.path(path), cfg.data.on_changed_corpus
    if not path.is_file():
        return
    lines = changed(_recorded(path), fingerprint(cfg))
    if not lines:
        return
    problem = f"the corpus is not the one that {path.parent} was started with: {'; '.join(lines)}"
    if policy == "refuse":
        raise DataError(
            f"{problem}. Restore it, start in a new workdir, or continue with the new one by data.on_changed_corpus='warn'"
        )
    warn(f"{problem}. The run continues with the new one (data.on_changed_corpus='warn')")


def _recorded(path: AnyPath) -> dict[str, str]:
    stored: Any = storage.read_json(path)
    version = stored.get("version") if isinstance(stored, dict) else None
    if version != VERSION:
        raise DataError(f"{path} has version {version!r}, this program reads {VERSION}")
    sources = stored.get("sources")
    if not isinstance(sources, dict) or not all(isinstance(value, str) for value in sources.values()):
        raise DataError(f"{path} lacks the fingerprints of its sources: it is damaged; remove it to record them anew")
    return sources
