"""Which config a workdir belongs to, and what of it may change when the run goes on."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cola_jax import storage
from cola_jax.config import ConfigError, RunConfig, changes, from_stored, to_dict
from cola_jax.errors import UserError
from cola_jax.train.optimizer import rates
from cola_jax.train.stored import folder, steps_in

TOKENIZER = "tokenizer"  # folder of a workdir

Say = Callable[[str], None]


class WorkdirError(UserError):
    """A workdir that cannot be used, or that belongs to another run; the message lists the differences."""


def check_path(workdir: Path) -> None:
    """Checks that checkpoints written below `workdir` can be read back.

    Raises:
      WorkdirError: where it is a file or below one, a link that leads nowhere, or has a name that Orbax reads as a pattern.
    """
    path = workdir.absolute()
    if not fnmatch.fnmatchcase(str(path), str(path)):
        raise WorkdirError(f"{path}: checkpoints below a folder with '[' in its name cannot be read back; rename it")
    if path.is_symlink() and not path.exists():
        raise WorkdirError(f"{path} is a link to {path.readlink()}, which does not exist")
    present = next(part for part in (path, *path.parents) if part.exists())
    if not present.is_dir():
        raise WorkdirError(f"{present} is a file: a workdir must be a folder")


def check(workdir: Path, cfg: RunConfig, say: Say) -> None:
    """Checks that `workdir` is new, has no checkpoint yet, or is of the same run.

    What is new in the config and may change is named to `say`.

    Raises:
      WorkdirError: where a field of class identity differs, or one of class length that changes the learning rate of steps
        that are done, or config.json cannot be read.
    """
    check_path(workdir)
    steps = steps_in(folder(workdir))
    if not steps or not (workdir / "config.json").exists():
        return
    old, new, done = from_stored(stored_config(workdir, say)), from_stored(to_dict(cfg)), steps[-1]
    found = changes(to_dict(old), to_dict(new))
    wrong = [str(change) for change in found if change.kind == "identity"]
    wrong += _length_problems(old, new, done)
    if wrong:
        raise WorkdirError(
            f"{workdir} belongs to a run with another config; differences (old -> new): {'; '.join(wrong)}. "
            "Give the old values or another workdir"
        )
    if found:
        say(f"going on with another config (old -> new): {'; '.join(map(str, found))}")


def _length_problems(old: RunConfig, new: RunConfig, done: int) -> list[str]:
    """Returns why a change of length is another run: fewer steps than are done, or other learning rates in those."""
    if new.train.steps < done and new.train.steps != old.train.steps:
        return [f"train.steps: {old.train.steps} -> {new.train.steps}, but {done} steps are done"]
    differ = np.flatnonzero(rates(old, done) != rates(new, done))
    length = [str(change) for change in changes(to_dict(old), to_dict(new)) if change.kind == "length"]
    if not len(differ) or not length:
        return []
    first = int(differ[0])
    return [
        f"{'; '.join(length)}: the {new.optimizer.schedule} schedule depends on the run's length here, and step {first + 1} of "
        f"the {done} that are done would have had another learning rate ({rates(old, done)[first]:.4g} -> "
        f"{rates(new, done)[first]:.4g})"
    ]


def stored_config(workdir: Path, say: Say | None = None) -> dict[str, Any]:
    """Returns the config of the run in `workdir` as a dict that `resolve` takes; an earlier version may have written it.

    Args:
      say: takes the line that names what was upgraded.

    Raises:
      WorkdirError: where there is none, or it cannot be read.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise WorkdirError(f"{workdir} is not a workdir: it has no config.json")
    try:
        return to_dict(from_stored(storage.read_json(path), say))
    except (storage.StorageError, ConfigError) as error:
        raise WorkdirError(f"{path} is not the config of a run: {error}") from error


def write_config(workdir: Path, cfg: RunConfig) -> None:
    """Writes config.json, in one rename."""
    workdir.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = to_dict(cfg)
    storage.write_json(workdir / "config.json", plain)
