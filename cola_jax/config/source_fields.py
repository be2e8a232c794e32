"""Which fields each kind of source reads, and how many paths it takes."""

from __future__ import annotations

from cola_jax.config.fields import DataConfig

READS = {
    "tinyworld": ("weight",),
    "pydocs": ("weight",),
    "text": ("path", "weight"),
    "jsonl": ("path", "field", "weight"),
    "parquet": ("path", "field", "weight"),
    "arrow": ("path", "field", "split", "weight"),
    "array_record": ("path", "field", "weight"),
    "tfds": ("path", "field", "split", "weight"),
    "prepared": ("path",),  # its sources are mixed by the weights that it was prepared with
}
FROM_FILES = tuple(kind for kind, names in READS.items() if "path" in names and kind != "prepared")
PATHS = {"prepared": 1, "tfds": 2}  # entries of data.sources.path at most


def too_many_paths(data: DataConfig) -> list[str]:
    """Returns one sentence for every source that names more paths than its kind takes."""
    found = []
    for index, source in enumerate(data.sources):
        most = PATHS.get(source.kind)
        if most is not None and len(source.path) > most:
            entries = "one entry" if most == 1 else f"{most} entries"
            found.append(f"data.sources.{index}.path={source.path!r}: kind {source.kind!r} takes at most {entries}")
    return found
