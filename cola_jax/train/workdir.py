"""The folder of a run: checks of its path, and its config.json."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

from cola_jax import storage
from cola_jax.config import ConfigError, RunConfig, from_stored, to_dict
from cola_jax.errors import UserError
from cola_jax.storage import AnyPath

TOKENIZER = "tokenizer"  # folder of a workdir

Say = Callable[[str], None]


class WorkdirError(UserError):
    """A workdir that cannot be used, or that belongs to another run; the message lists the differences."""


def check_path(workdir: AnyPath) -> None:
    """Checks that checkpoints written below `workdir` can be read back.

    Raises:
      WorkdirError: if it is a file or below one, a broken link, or has a name that Orbax reads as a pattern.
    """
    path = storage.absolute(workdir)
    if not fnmatch.fnmatchcase(str(path), str(path)):
        raise WorkdirError(f"{path}: checkpoints below a folder with '[' in its name cannot be read back; rename it")
    if storage.is_remote(path):
        storage.check_access(path)
        return
    if path.is_symlink() and not path.exists():
        raise WorkdirError(f"{path} is a link to {path.readlink()}, which does not exist")
    present = next(part for part in (path, *path.parents) if part.exists())
    if not present.is_dir():
        raise WorkdirError(f"{present} is a file: a workdir must be a folder")


def stored_config(workdir: AnyPath, say: Say | None = None) -> dict[str, Any]:
    """Returns the config of the run in `workdir` as a dict that `resolve` takes; an earlier version may have written it.

    Args:
      say: called with a line that names what was upgraded.

    Raises:
      WorkdirError: if there is none, or it cannot be read.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise WorkdirError(f"{workdir} is not a workdir: it has no config.json")
    try:
        return to_dict(from_stored(storage.read_json(path), say))
    except (storage.StorageError, ConfigError) as error:
        raise WorkdirError(f"{path} is not the config of a run: {error}") from error


def write_config(workdir: AnyPath, cfg: RunConfig) -> None:
    """Writes config.json, in one rename."""
    storage.make_folder(workdir)
    plain: dict[str, Any] = to_dict(cfg)
    storage.write_json(workdir / "config.json", plain)
