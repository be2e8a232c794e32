"""A folder that is written under a temporary name and renamed when complete; only one program can write it at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cola_jax import storage
from cola_jax.data.errors import DataError, WriteError
from cola_jax.storage import AnyPath

ENDING = ".partial"


def check_free(folder: str | AnyPath, name: str) -> AnyPath:
    """Returns where to write, without writing: links resolved, absolute.

    Args:
      name: the option that `folder` was given by.

    Raises:
      DataError: if the folder is not empty, or cannot be written. StorageError: for a path that cannot be used.
    """
    given = storage.path(folder, name)
    if storage.is_remote(given):
        storage.check_access(given)
        if storage.names_in(given):
            raise DataError(f"{given} is not an empty folder: remove it, or name another one")
        return given
    if given.is_symlink() and not given.exists():
        raise DataError(f"{given} is a link to {os.readlink(given)}, which does not exist: name another folder")
    out = given.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{given} is not an empty folder: remove it, or name another one")
    if out.is_mount():
        raise DataError(f"{given} is a mount point, which a new folder cannot replace: name a folder inside it")
    above = next(parent for parent in out.parents if parent.exists())
    if not above.is_dir():
        raise DataError(f"{given} cannot be created: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise WriteError(f"{given} cannot be created: no permission to write in {above}")
    return out


@contextmanager
def new_folder(out: AnyPath, last: str) -> Iterator[Path]:
    """Yields a folder to fill, which is renamed to `out` on success and removed otherwise.

    For an object store it is a temporary folder, which is copied there on success.

    Args:
      last: the file without which the folder is not read; copied after all others.

    Raises:
      DataError: if another program is writing it. WriteError: if it cannot be created or renamed.
    """
    if storage.is_remote(out):
        with storage.temporary_folder() as folder:
            yield folder
            storage.upload(folder, out, last)
        return
    partial = out.with_name(out.name + ENDING)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        held = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise WriteError(f"{partial}: {storage.reason(error)}") from error
    try:
        _lock(held, partial)
        _clear(partial)  # left by a killed program
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
    """Converts an OSError of the body, e.g. for a full disk, to a WriteError that names `path`."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{error.filename or path} cannot be written: {storage.reason(error)}") from error


def _appear(partial: Path, out: Path) -> None:
    try:
        os.replace(partial, out)
    except OSError as error:  # e.g. another program was faster
        raise WriteError(f"{out} cannot be created from {partial}: {storage.reason(error)}") from error


def _lock(held: int, partial: Path) -> None:
    """Locks an open folder until it is closed or the process ends."""
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
