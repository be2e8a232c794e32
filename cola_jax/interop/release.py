"""Writes the released form, one tensor in memory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cola_jax.config import RunConfig
from cola_jax.interop.record import File, Kept
from cola_jax.interop.released import rows_of
from cola_jax.interop.released_config import released_fields
from cola_jax.interop.safetensors_file import DTYPES, write_file
from cola_jax.interop.tensor_names import Row, constants
from cola_jax.interop.weight_files import INDEX, SINGLE

NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
SHARD_BYTES = 4_000_000_000


def write_part(
    part: str,
    folder: Path,
    cfg: RunConfig,
    leaves: dict[str, jax.Array],
    kept: Kept | None,
    dtype: str | None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and the tensors of one part, cola_vae or cola_dit.

    Args:
      folder: is made.
      leaves: {path: parameter}, fp32, of the part's groups.
      kept: the names, dtypes and files to write, as recorded by an import; None: fp32, in files of at most `shard_bytes`.
      dtype: a key of NAMES for every weight instead of that.

    Raises:
      ReleasedFormatError: if `cfg` holds something that the released form cannot represent.
    """
    fields = released_fields(part, cfg, dtype or "float32")
    folder.mkdir(parents=True)
    sources = {name: (row, layer) for row in rows_of(part, cfg) for layer, name in enumerate(row.names)}
    fixed = constants(part, cfg) | (kept.constants if kept else {})
    shapes = {name: row.shape for name, (row, _) in sources.items()} | {name: x.shape for name, x in fixed.items()}
    if kept is None:
        config = (json.dumps(fields, indent=2) + "\n").encode()
        files = divided(
            dict.fromkeys(sorted(sources), "F32") | dict.fromkeys(sorted(fixed), "F32"), shapes, shard_bytes
        )
    else:
        config, files = kept.config, kept.files
    if dtype is not None:
        retyped = lambda dtypes: {n: NAMES[dtype] if n in sources else t for n, t in dtypes.items()}
        files = [file._replace(dtypes=retyped(file.dtypes)) for file in files]
        config = (json.dumps({**json.loads(config), "dtype": dtype}, indent=2) + "\n").encode()
    (folder / "config.json").write_bytes(config)
    write_files(folder, files, shapes, lambda file: _tensors(file, leaves, sources, fixed))
    if kept is not None and kept.index is not None and dtype is None:
        (folder / INDEX).write_bytes(kept.index)


def write_files(
    folder: Path,
    files: list[File],
    shapes: dict[str, tuple[int, ...]],
    tensors: Callable[[File], Iterable[np.ndarray]],
) -> None:
    """Writes safetensors files, and the index if there are several.

    tensors: (file) -> its arrays, in order, of its dtypes and of `shapes`.
    """
    total, places = 0, {}
    for file in files:
        forms = {name: (kind, shapes[name]) for name, kind in file.dtypes.items()}
        total += write_file(folder / file.name, file.metadata, forms, tensors(file))
        places |= dict.fromkeys(forms, file.name)
    if [file.name for file in files] != [SINGLE]:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _tensors(
    file: File, leaves: dict[str, jax.Array], sources: dict[str, tuple[Row, int]], fixed: dict[str, np.ndarray]
) -> Iterator[np.ndarray]:
    for name, kind in file.dtypes.items():
        if name in fixed:
            yield fixed[name]
            continue
        row, layer = sources[name]
        leaf = leaves[row.path]
        values = np.asarray(_layer(leaf, layer) if row.stacked else leaf)
        yield np.ascontiguousarray(row.layout.theirs(values)).astype(DTYPES[kind], copy=False)


@jax.jit
def _layer(stacked: jax.Array, layer: Any) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, layer, 0, keepdims=False)


def divided(dtypes: dict[str, str], shapes: dict[str, tuple[int, ...]], shard_bytes: int) -> list[File]:
    """Divides tensors, in order, into files of at most `shard_bytes` (or of one tensor)."""
    shards: list[dict[str, str]] = [{}]
    held = 0
    for name, kind in dtypes.items():
        size = math.prod(shapes[name]) * DTYPES[kind].itemsize
        if shards[-1] and held + size > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = kind
        held += size
    named = [SINGLE] if len(shards) == 1 else [
        f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
    ]  # fmt: skip
    return [File(name, {"format": "pt"}, shard) for name, shard in zip(named, shards)]
