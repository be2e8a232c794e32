"""A folder that is filled under another name and appears whole, in one rename; two programs cannot fill the same one."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cola_jax import storage
from cola_jax.data.errors import DataError, WriteError

ENDING = ".partial"


def check_free(folder: str | Path, name: str) -> Path:
    """Returns where to write, without writing: links resolved, absolute.

    Args:
      name: of the option that `folder` was given by.

    Raises:
      DataError: where the place holds something, or cannot be written to. StorageError: for scheme://.
    """
    given = storage.local(folder, name)
    if given.is_symlink() and not given.exists():
        raise DataError(f"{given} is a link to {os.readlink(given)}, which does not exist: name another folder")
    out = given.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{given} is not an empty folder: remove it, or name another one")
    if out.is_mount():
        raise DataError(f"{given} is a mount point, which a new folder cannot replace: name a folder inside it")
    above = next(parent for parent in out.parents if parent.exists())
    if not above.is_dir():
        raise DataError(f"{given} cannot be made: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise WriteError(f"{given} cannot be made: no permission to write in {above}")
    return out


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Gives a folder to fill that becomes `out` when all went well, and is gone else.

    Raises:
      DataError: where another program fills it. WriteError: where it cannot be made or renamed.
    """
    partial = out.with_name(out.name + ENDING)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        held = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise WriteError(f"{partial}: {storage.reason(error)}") from error
    try:
        _lock(held, partial)
        _clear(partial)  # what a killed program left
        try:
            yield partial
            _appear(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(held)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises WriteError in place of the OSError of what is written inside, e.g. on a full disk; `path` names it."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{error.filename or path} cannot be written: {storage.reason(error)}") from error


def _appear(partial: Path, out: Path) -> None:
    try:
        os.replace(partial, out)
    except OSError as error:  # e.g. another program was faster
        raise WriteError(f"{out} cannot be made of {partial}: {storage.reason(error)}") from error


def _lock(held: int, partial: Path) -> None:
    """Locks an open folder until it is closed, or the process ends."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(
            f"{partial} is being written by another program: wait for it, or name another folder"
        ) from error
    except OSError:  # a file system without locks
        return


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
