"""Rows per second of a prepared corpus in random order: on a local disk, and in an emulated bucket by ranges and cached.

    python -m benchmarks.corpus_reads --scheme gs

An emulator on the same machine answers in about a millisecond and shares its cores: a real bucket takes 10 to 50 ms a request
and serves many at once. So the ratio to the local disk is a lower bound of this program's own cost per row, not of a bucket's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import grain
import numpy as np

from benchmarks import emulators
from benchmarks.measure import machine, peak_memory
from cola_jax import config, storage
from cola_jax.data.array_records import open_file
from cola_jax.data.pipeline import build_corpus
from cola_jax.data.prepare import prepare_corpus
from cola_jax.data.tokenizers import BytesTokenizer

LENGTH = 512


def prepared(place: Path, documents: int) -> config.RunConfig:
    """Writes a corpus of stories; returns the config that reads it."""
    changes = {
        "family": "ar", "data.generated_documents": documents, "data.heldout_documents": 8, "data.packing": "best_fit",
        "tokenizer.kind": "bytes", "backbone.vocab_size": 258, "train.sequence_length": LENGTH, "train.eval_every": 0,
    }  # fmt: skip
    cfg = config.load_config("", changes)
    prepare_corpus(cfg, place, lambda line: None)
    return cfg


def reading(cfg: config.RunConfig, folder: object, gib: float, cache: Path) -> config.RunConfig:
    """Returns the config that reads the corpus in `folder`."""
    source = dataclasses.replace(cfg.data.sources[0], kind="prepared", path=(str(folder),))
    data = dataclasses.replace(cfg.data, sources=(source,), cache_dir=str(cache), cache_gib=gib)
    return dataclasses.replace(cfg, data=data)


def rate(cfg: config.RunConfig, threads: int, seconds: float) -> float:
    """Returns rows per second of the training rows in random order, through Grain's threads."""
    rows = build_corpus(cfg, BytesTokenizer()).train
    order = grain.MapDataset.source(rows).shuffle(seed=0).repeat(None)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    begun = time.monotonic()
    for count, _ in enumerate(order.to_iter_dataset(options), 1):
        if time.monotonic() - begun >= seconds:
            return count / (time.monotonic() - begun)
    raise AssertionError("the rows are endless")


def plain(folder: Path, seconds: float) -> float:
    """Returns records per second of the library alone, in random order: the reference."""
    source = open_file(str(next(folder.glob("*-train-*.array_record"))))
    order, begun, count = np.random.default_rng(0), time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        for index in order.integers(0, len(source), 64):
            source[int(index)]
        count += 64
    return count / (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", choices=tuple(emulators.KINDS), default="gs")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, emulators.store(options.scheme) as root:
        place = Path(temporary)
        cfg, bucket = prepared(place / "corpus", options.documents), storage.path(f"{root}/corpus")
        storage.upload(place / "corpus", bucket)
        local = reading(cfg, place / "corpus", 1.0, place / "cache")
        found = {"library alone, one thread": plain(place / "corpus", options.seconds)}
        measured = lambda one: rate(one, options.threads, options.seconds)
        found["local disk"] = measured(local)
        found["bucket, by ranges"] = measured(reading(cfg, bucket, 1e-9, place / "cache"))
        found["bucket, cached, first pass"] = measured(reading(cfg, bucket, 1.0, place / "cache"))
        found["bucket, cached"] = measured(reading(cfg, bucket, 1.0, place / "cache"))
        size = sum(storage.sizes_in(place / "corpus").values())
    for name, value in found.items():
        tokens = value * LENGTH / 1e6
        print(
            f"{name:28} {value:10,.0f} rows/s {tokens:8.2f} M tokens/s {value / found['local disk']:6.2f} x local disk"
        )
    facts = {"scheme": options.scheme, "threads": options.threads, "corpus MB": round(size / 1e6, 1)}
    print(json.dumps(facts | {"memory": peak_memory(), "machine": machine()}))


if __name__ == "__main__":
    main()
