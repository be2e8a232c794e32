"""Which config a workdir belongs to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cola_jax.config import RunConfig, differences, to_dict
from cola_jax.config.axes import MESH_AXES
from cola_jax.errors import UserError

# What may change when a run is resumed: how often things are shown and kept, and what runs where. Nothing here changes a loss
# beyond the order in which floats are added.
HARMLESS = (
    "train.log_every", "train.eval_every", "train.plot_every",
    "data.threads", "data.prefetch",
    "checkpoint.keep_last", "checkpoint.keep_every", "checkpoint.keep_best",
    *(f"{group}.{axis}" for group in ("mesh", "mesh.dcn") for axis in MESH_AXES),
)  # fmt: skip


class WorkdirError(UserError):
    """A workdir that belongs to another run; the message lists the differences."""


def check(workdir: Path, cfg: RunConfig) -> None:
    """Checks that `workdir` is new or of the same config.

    Raises:
      WorkdirError: where config.json differs in a field that is not HARMLESS, or cannot be read.
    """
    if not (workdir / "config.json").exists():
        return
    old = stored_config(workdir)
    changed = [line for line in differences(old, to_dict(cfg)) if line.split(":")[0] not in HARMLESS]
    if changed:
        raise WorkdirError(
            f"{workdir} belongs to a run with another config; differences (old -> new): {'; '.join(changed)}. "
            "Give the old values or another workdir"
        )


def stored_config(workdir: Path) -> dict[str, Any]:
    """Returns the config of the run in `workdir`.

    Raises:
      WorkdirError: where there is none, or it cannot be read.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise WorkdirError(f"{workdir} is not a workdir: it has no config.json")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise WorkdirError(f"{path} is not JSON ({error}); expected the config of the run in this workdir") from error


def claim(workdir: Path, cfg: RunConfig) -> None:
    """Writes config.json, in one piece."""
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / "config.json.partial"
    partial.write_text(json.dumps(to_dict(cfg), indent=2) + "\n")
    os.replace(partial, workdir / "config.json")
