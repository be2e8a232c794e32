"""Tokenize and pack once: a folder of ArrayRecord shards that training reads by random access.

    FOLDER/metadata.json        the settings it was made with; written last
    FOLDER/tokenizer.*          the tokenizer
    FOLDER/0-train-00000.array_record, 0-heldout-00000.array_record, ...   source 0, 1, ...

A record is one row: L tokens and L segments as little-endian int32, then L weights as uint8. Everything is written to
FOLDER.partial and renamed in one step, so a killed run leaves no folder that looks complete.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from cola_jax import storage
from cola_jax.config import RunConfig, tokens_of_block
from cola_jax.config.fields import SourceConfig
from cola_jax.data import tokenizers
from cola_jax.data.corpus import Corpus, Part, Unknown, check_rows, check_vocabulary, encoded, report_division
from cola_jax.data.errors import DataError, Warn, WriteError, to_stderr
from cola_jax.data.files import given
from cola_jax.data.new_folder import check_free, new_folder, writing
from cola_jax.data.object_cache import cache_of
from cola_jax.data.packing import Packed, pack_chunks
from cola_jax.data.prepared_rows import (
    METADATA_NAME,
    SIDES,
    VERSION,
    PreparedRows,
    disagreements,
    dividing,
    read_metadata,
)
from cola_jax.data.sources import Division, Documents, name_of, open_source
from cola_jax.data.tokenizers import Tokenizer
from cola_jax.storage import AnyPath


def prepare_corpus(cfg: RunConfig, out_folder: str | AnyPath, warn: Warn = to_stderr) -> dict[str, Any]:
    """Tokenizes and packs the sources of `cfg` into `out_folder`. Returns the metadata.

    Nothing is written before the sources, the tokenizer and the vocabulary have been checked.

    Args:
      warn: called with a line about omissions of the corpus: files, records, characters.

    Raises:
      DataError: if the folder is not empty, a source cannot be used, or another program is writing the folder.
      WriteError: if the folder cannot be written. StorageError: for scheme://.
    """
    out = check_free(out_folder, "--output")
    if any(source.kind == "prepared" for source in cfg.data.sources):
        raise DataError("data.sources.kind='prepared' holds packed tokens, not documents: it cannot be prepared again")
    tokenizer = tokenizers.build(cfg, warn=warn)
    check_vocabulary(cfg, tokenizer)
    divisions = [open_source(cfg.data, source) for source in cfg.data.sources]
    with new_folder(out, METADATA_NAME) as partial:
        with writing(partial):
            tokenizers.save(tokenizer, partial)
        sources = [
            _write_source(cfg, tokenizer, partial, index, division, warn) for index, division in enumerate(divisions)
        ]
        metadata = {"version": VERSION, **_identity(cfg, tokenizer), "data": dividing(cfg.data), "sources": sources}
        with writing(partial):
            storage.write_json(partial / METADATA_NAME, metadata)
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


def _write_source(
    cfg: RunConfig, tokenizer: Tokenizer, folder: Path, index: int, division: Division, warn: Warn
) -> dict[str, Any]:
    source: SourceConfig = cfg.data.sources[index]
    name, unknown, content = name_of(source), Unknown(), hashlib.blake2b(digest_size=16)
    entry: dict[str, Any] = {"name": name, "weight": source.weight, "skipped": dict(division.skipped)}
    for side in SIDES:
        documents: Documents = getattr(division, side)
        tokens = encoded(documents, tokenizer, name, unknown)
        chunks = pack_chunks(tokens, cfg, tokenizer.pad_id, tokenizer.eos_id, keep_tail=side == "heldout")
        shards = []
        for number, packed in enumerate(chunks):
            file = f"{index}-{side}-{number:05d}.array_record"
            shards.append({"file": file, "rows": len(packed)})
            _write_shard(folder / file, packed, content)
        content.update(f"/{side}".encode())
        entry[side] = {"documents": len(documents), "shards": [shard for shard in shards if shard["rows"]]}
    check_rows(name, sum(shard["rows"] for shard in entry["train"]["shards"]))
    report_division(name, division, unknown, warn)
    return entry | {"fingerprint": content.hexdigest()}


def _write_shard(path: Path, packed: Packed, content: Any) -> None:
    """Writes rows and adds their bytes to the hash `content`.

    Raises:
      WriteError: if rows are missing afterwards, e.g. on a full disk.
    """
    try:
        writer = ArrayRecordWriter(str(path), "group_size:1,zstd")
        for n in range(len(packed)):
            parts = (packed.tokens_NL[n].astype("<i4"), packed.segments_NL[n].astype("<i4"), packed.weights_NL[n])
            record = b"".join(part.tobytes() for part in parts)
            content.update(record)
            writer.write(record)
        writer.close()
        reader = ArrayRecordReader(str(path))
        written = reader.num_records()
        reader.close()
    except RuntimeError as error:  # the only exception type of the writer
        raise WriteError(f"{path} cannot be written: {str(error).split(';')[0]}") from error
    if written != len(packed):
        raise WriteError(f"{path} holds {written} rows of {len(packed)} after writing: is the disk full?")


def open_prepared(cfg: RunConfig, tokenizer: Tokenizer, warn: Warn = to_stderr) -> Corpus:
    """Opens the prepared corpus of `cfg`, its only source; the sources in it are mixed by the weights of its preparation.

    Raises:
      DataError: if the folder is not complete, or was made with another length, packing, block or tokenizer than `cfg`
        has; every difference is named with both values. A corpus packed by concat fits every block size.
    """
    folder = given(cfg.data.sources[0].path[0])
    metadata = read_metadata(folder)
    wanted = _identity(cfg, tokenizer)
    if cfg.data.packing == "concat":
        wanted.pop("tokens of a block")
    wrong = disagreements(metadata, wanted, cfg.data)
    if wrong:
        raise DataError(f"{folder} does not fit the config: {'; '.join(wrong)}")
    check_vocabulary(cfg, tokenizer)
    length, cache = cfg.train.sequence_length, cache_of(cfg.data)
    if storage.is_remote(folder) and sum(storage.sizes_in(folder).values()) > cache.budget:
        cache = None  # it would be emptied again and again: rows are read in random order
    skip = warn if cfg.data.on_damaged_shard == "skip" else None
    rows = lambda entry: (PreparedRows(folder, entry[side]["shards"], length, cache, skip) for side in SIDES)
    return Corpus(tuple(Part(entry["name"], entry["weight"], *rows(entry)) for entry in metadata["sources"]))
