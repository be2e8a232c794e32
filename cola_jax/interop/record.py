"""The record of an imported folder in a workdir, so that an export restores every byte.

FOLDER/cola_vae/config.json                    as it was
FOLDER/cola_vae/model.safetensors.index.json   as imported, if there were shards
FOLDER/cola_vae/layout.json                    files, their metadata, their tensors' names and dtypes in order, constants
FOLDER/cola_dit/...
FOLDER/tokenizer_config.json, special_tokens_map.json   as imported, if there were any
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cola_jax import storage
from cola_jax.config import RunConfig
from cola_jax.interop.errors import ReleasedFormatError
from cola_jax.interop.safetensors_file import DTYPES
from cola_jax.interop.tensor_names import constants
from cola_jax.interop.weight_files import INDEX, SINGLE, read_files

BESIDE_THE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json")


class File(NamedTuple):
    """One safetensors file: its name, its metadata, and {tensor: key of DTYPES} in order."""

    name: str
    metadata: dict[str, str]
    dtypes: dict[str, str]


class Kept(NamedTuple):
    """One part's record. Constants are {tensor: array as stored}."""

    config: bytes
    index: bytes | None
    files: list[File]
    constants: dict[str, np.ndarray]


def keep(released: Path, part: str, cfg: RunConfig, folder: Path) -> None:
    """Records one part of a released folder that has been read."""
    target = folder / part
    target.mkdir(parents=True)
    shutil.copyfile(released / part / "config.json", target / "config.json")
    if not (released / part / SINGLE).is_file():
        shutil.copyfile(released / part / INDEX, target / INDEX)
    fixed, files, stored = constants(part, cfg), [], {}
    for name, metadata, entries in read_files(released / part):
        files.append({"name": name, "metadata": metadata, "dtypes": {entry.name: entry.dtype for entry in entries}})
        stored |= {e.name: base64.b64encode(e.read().tobytes()).decode() for e in entries if e.name in fixed}
    (target / "layout.json").write_text(json.dumps({"files": files, "constants": stored}) + "\n")


def kept(folder: Path, part: str, cfg: RunConfig) -> Kept | None:
    """Returns the record of one part, None if there is none.

    Raises:
      ReleasedFormatError: if the record is damaged.
    """
    path = folder / part / "layout.json"
    if not path.is_file():
        return None
    try:
        return _kept(folder / part, storage.read_json(path), constants(part, cfg))
    except (storage.StorageError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReleasedFormatError(f"{path} is damaged ({error}): remove {folder} to export without it") from error


def _kept(folder: Path, layout: dict[str, Any], fixed_here: dict[str, np.ndarray]) -> Kept:
    files = [File(**fields) for fields in layout["files"]]
    dtypes = {name: dtype for file in files for name, dtype in file.dtypes.items()}
    shapes = {name: value.shape for name, value in fixed_here.items()}
    fixed = {
        name: np.frombuffer(base64.b64decode(data), DTYPES[dtypes[name]]).reshape(shapes[name])
        for name, data in layout["constants"].items()
    }
    index = folder / INDEX
    return Kept((folder / "config.json").read_bytes(), index.read_bytes() if index.is_file() else None, files, fixed)
