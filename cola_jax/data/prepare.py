"""Tokenize and pack once: a folder of ArrayRecord shards that training reads by random access.

    FOLDER/metadata.json        what it was made with; written last
    FOLDER/tokenizer.*          the tokenizer
    FOLDER/0-train-00000.array_record, 0-heldout-00000.array_record, ...   source 0, 1, ...

A record is one row: L tokens and L segments as little-endian int32, then L weights as uint8. Everything is written to
FOLDER.partial and renamed in one step, so a killed run leaves no folder that looks whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from cola_jax.config import RunConfig, tokens_of_block
from cola_jax.data import tokenizers
from cola_jax.data.corpus import Corpus, Part, check_rows, check_vocabulary, encoded, name_of
from cola_jax.data.errors import DataError
from cola_jax.data.packing import Row, pack_chunks, row
from cola_jax.data.sources import Documents, open_source
from cola_jax.data.tokenizers import Tokenizer

METADATA_NAME = "metadata.json"
VERSION = 1
SIDES = ("train", "heldout")


def prepare(cfg: RunConfig, out_folder: str | Path) -> dict[str, Any]:
    """Tokenizes and packs the sources of `cfg` into `out_folder`. Returns the metadata.

    Raises:
      DataError: where the folder is not empty, or a source cannot be used.
    """
    out = Path(out_folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty folder: remove it, or prepare into another one")
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    tokenizer = tokenizers.build(cfg)
    check_vocabulary(cfg, tokenizer)
    tokenizers.save(tokenizer, partial)
    sources = [_write_source(cfg, tokenizer, partial, index) for index in range(len(cfg.data.sources))]
    metadata = {"version": VERSION, **_identity(cfg, tokenizer), "sources": sources}
    (partial / METADATA_NAME).write_text(json.dumps(metadata, indent=1) + "\n")
    os.replace(partial, out)
    return metadata


def _identity(cfg: RunConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the fields in which a prepared corpus and a config must agree."""
    return {
        "train.sequence_length": cfg.train.sequence_length,
        "data.packing": cfg.data.packing,
        "tokens of a block": tokens_of_block(cfg),
        "tokenizer.kind": cfg.tokenizer.kind,
        "tokenizer.vocab_size": cfg.tokenizer.vocab_size if cfg.tokenizer.kind == "sentencepiece" else 0,
        "tokenizer": tokenizers.fingerprint(tokenizer),
    }


def _write_source(cfg: RunConfig, tokenizer: Tokenizer, folder: Path, index: int) -> dict[str, Any]:
    source = cfg.data.sources[index]
    division = open_source(cfg.data, source)
    entry: dict[str, Any] = {"name": name_of(source), "weight": source.weight}
    for side in SIDES:
        documents: Documents = getattr(division, side)
        tokens = encoded(documents, tokenizer, entry["name"])
        chunks = pack_chunks(tokens, cfg, tokenizer.pad_id, tokenizer.eos_id, keep_tail=side == "heldout")
        shards = []
        for number, packed in enumerate(chunks):
            shards.append({"file": f"{index}-{side}-{number:05d}.array_record", "rows": len(packed)})
            writer = ArrayRecordWriter(str(folder / shards[-1]["file"]), "group_size:1,zstd")
            for n in range(len(packed)):
                parts = (packed.tokens_NL[n].astype("<i4"), packed.segments_NL[n].astype("<i4"), packed.weights_NL[n])
                writer.write(b"".join(part.tobytes() for part in parts))
            writer.close()
        entry[side] = {"documents": len(documents), "shards": [shard for shard in shards if shard["rows"]]}
    check_rows(entry["name"], sum(shard["rows"] for shard in entry["train"]["shards"]))
    return entry


class PreparedRows:
    """The rows of some shards by random access."""

    def __init__(self, folder: Path, shards: Sequence[dict[str, Any]], length: int):
        """Raises DataError where a shard is missing or has another number of rows than its metadata says."""
        self._length = length
        self._count = sum(shard["rows"] for shard in shards)
        missing = [shard["file"] for shard in shards if not (folder / shard["file"]).is_file()]
        if missing:
            raise DataError(f"{folder} lacks {', '.join(missing)}: prepare it again")
        self._records = ArrayRecordDataSource([str(folder / shard["file"]) for shard in shards]) if shards else []
        if len(self._records) != self._count:
            raise DataError(
                f"{folder} has {len(self._records)} rows, its {METADATA_NAME} says {self._count}: prepare it again"
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Row:
        record, length = self._records[index], self._length
        tokens_L = np.frombuffer(record, "<i4", length)
        segments_L = np.frombuffer(record, "<i4", length, offset=4 * length)
        return row(tokens_L, segments_L, np.frombuffer(record, np.uint8, length, offset=8 * length))


def open_prepared(cfg: RunConfig, tokenizer: Tokenizer) -> Corpus:
    """Opens the corpus that the only source of `cfg` names.

    Raises:
      DataError: where the folder is not whole, or was made with another length, packing, block or tokenizer than `cfg`
        has; every difference is named with both values. Packed by concat, it fits every block.
    """
    folder = Path(cfg.data.sources[0].path[0])
    path = folder / METADATA_NAME
    if not path.is_file():
        raise DataError(
            f"data.sources.path: {folder} has no {METADATA_NAME}: not a prepared corpus, or not a whole one"
        )
    metadata = json.loads(path.read_text())
    if metadata.get("version") != VERSION:
        raise DataError(
            f"{path} has version {metadata.get('version')!r}, this program reads {VERSION}: prepare it again"
        )
    wanted = _identity(cfg, tokenizer)
    if cfg.data.packing == "concat":
        wanted["tokens of a block"] = metadata["tokens of a block"]
    wrong = [f"{name}: prepared with {metadata[name]!r}, the config has {wanted[name]!r}" for name in wanted
             if metadata[name] != wanted[name]]  # fmt: skip
    if wrong:
        raise DataError(f"{folder} does not fit the config: {'; '.join(wrong)}")
    check_vocabulary(cfg, tokenizer)
    length = cfg.train.sequence_length
    return Corpus(
        tuple(
            Part(
                entry["name"], entry["weight"], *(PreparedRows(folder, entry[side]["shards"], length) for side in SIDES)
            )
            for entry in metadata["sources"]
        )
    )
