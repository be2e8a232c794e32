"""Which fields of a source, and of the data, its kind reads; what is set and not read is refused by name."""

from __future__ import annotations

import math
from dataclasses import fields

from cola_jax.config.fields import DataConfig, SourceConfig

READ = {
    "tinyworld": {"weight"},
    "pydocs": {"weight"},
    "text": {"path", "weight"},
    "jsonl": {"path", "field", "weight"},
    "parquet": {"path", "field", "weight"},
    "arrow": {"path", "field", "split", "weight"},
    "array_record": {"path", "field", "weight"},
    "tfds": {"path", "field", "split", "weight"},
    "prepared": {"path"},
}
WHY = {("prepared", "weight"): "the sources of a prepared corpus mix by the weights that it was prepared with"}
PATHS = {"prepared": 1, "tfds": 2}  # entries of data.sources.path at most


def problems(data: DataConfig) -> list[str]:
    """Returns one sentence for every field of `data` that its sources cannot take as it is."""
    found = []
    for index, source in enumerate(data.sources):
        found += _of_source(f"data.sources.{index}", source)
    for name in ("threads", "prefetch", "seed", "generated_documents", "heldout_documents"):
        value = getattr(data, name)
        if value < 0:
            found.append(f"data.{name}={value} must not be negative")
    if data.seed >= 2**64:
        found.append(f"data.seed={data.seed} must be below 2**64")
    return found


def _of_source(where: str, source: SourceConfig) -> list[str]:
    default, read, found = SourceConfig(), READ[source.kind] | {"kind"}, []
    for field in fields(SourceConfig):
        value = getattr(source, field.name)
        if field.name not in read and value != getattr(default, field.name):
            why = WHY.get((source.kind, field.name), "leave it out")
            found.append(f"{where}.{field.name}={value!r} is not read by kind {source.kind!r}: {why}")
    if not math.isfinite(source.weight):
        found.append(f"{where}.weight={source.weight} must be a finite number")
    most = PATHS.get(source.kind)
    if most is not None and len(source.path) > most:
        entries = "one entry" if most == 1 else f"{most} entries"
        found.append(f"{where}.path={source.path!r}: kind {source.kind!r} takes at most {entries}")
    return found
