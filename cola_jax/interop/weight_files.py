"""The safetensors files of a folder, one or the shards of an index, and unsupported dtypes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cola_jax.interop.errors import ReleasedFormatError
from cola_jax.interop.released_config import read_json
from cola_jax.interop.safetensors_file import DTYPES, Entry, read_header

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_files(folder: Path) -> list[tuple[str, dict[str, str], list[Entry]]]:
    """Returns (file name, metadata, tensors) of each file of a folder: one, or the shards of its index.

    Raises:
      ReleasedFormatError: if there is neither, a shard is missing or truncated, or the index and the shards disagree.
    """
    index_path = folder / INDEX
    if (folder / SINGLE).is_file() or not index_path.is_file():
        if not (folder / SINGLE).is_file():
            raise ReleasedFormatError(f"{folder / SINGLE} does not exist, and neither does {INDEX}")
        return [(SINGLE, *read_header(folder / SINGLE))]
    places = read_json(index_path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ReleasedFormatError(f"{index_path} has no weight_map from tensors to files")
    elsewhere = sorted(name for name in set(places.values()) if Path(name).name != name)
    if elsewhere:
        raise ReleasedFormatError(f"{index_path} names files outside its folder: {', '.join(elsewhere)}")
    missing = sorted(name for name in set(places.values()) if not (folder / name).is_file())
    if missing:
        raise ReleasedFormatError(f"{index_path} names shards that do not exist: {', '.join(missing)}")
    files = [(name, *read_header(folder / name)) for name in sorted(set(places.values()))]
    found = {entry.name: name for name, _, entries in files for entry in entries}
    wrong = sorted(name for name in places.keys() | found.keys() if places.get(name) != found.get(name))
    if wrong:
        raise ReleasedFormatError(f"{index_path} and its shards disagree on {', '.join(wrong)}")
    return files


def refuse_types(folder: Path, entries: Iterable[Entry]) -> None:
    """Raises ReleasedFormatError for tensors of an unsupported dtype; each dtype is named once."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.dtype not in DTYPES:
            found.setdefault(entry.dtype, []).append(entry.name)
    if found:
        said = [f"{kind} ({len(names)} tensors, {names[0]} the first)" for kind, names in sorted(found.items())]
        raise ReleasedFormatError(
            f"{folder} holds {', '.join(said)}: only {', '.join(DTYPES)} are read; quantised weights must be converted first"
        )
