"""The saves of a run: which are whole, whose they are, and which of them a resume may see.

A save is a folder CHECKPOINTS/STEP on a local disk, where Orbax gives it that name in one rename when it is whole, and
CHECKPOINTS/STEP.ATTEMPT in an object store, where Orbax writes commit_success.txt last: no two attempts write the same objects.

An attempt begins by writing attempts/NUMBER.saves.json: the names of the saves that it goes on from. From then on those are
visible, and the saves of this attempt and of later ones. What an attempt that has lost its claim still commits is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cola_jax import storage
from cola_jax.storage import AnyPath

COMMIT = "commit_success.txt"  # Orbax's name
DAMAGED = "damaged.txt"  # takes the place of COMMIT in a save that cannot be read
NAME = re.compile(r"(\d+)(?:\.(\d+))?")
RECORD = re.compile(r"(\d+)\.saves\.json")


@dataclass(frozen=True)
class Save:
    """One whole save: its step, its folder, and the attempt in its name, None if there is none."""

    step: int
    path: AnyPath
    attempt: int | None = None


def path_of(directory: AnyPath, step: int, attempt: int) -> AnyPath:
    """Returns where an attempt writes the save of a step."""
    return directory / (f"{step}.{attempt:04d}" if storage.is_remote(directory) and attempt else str(step))


def saves_in(directory: AnyPath) -> dict[int, AnyPath]:
    """Returns {step: folder} of the visible saves, by step; of several attempts the last."""
    found, record = whole(directory), _newest_record(directory)
    if record is not None:
        first, inherited = record
        found = [save for save in found if save.path.name in inherited or _attempt_of(save, first) >= first]
    return {save.step: save.path for save in found}


def whole(directory: AnyPath) -> list[Save]:
    """Returns every whole save, whoever wrote it, by step and attempt."""
    found = []
    for name in storage.names_in(directory):
        match = NAME.fullmatch(name)
        if match and is_whole(directory / name):
            found.append(Save(int(match[1]), directory / name, int(match[2]) if match[2] else None))
    return sorted(found, key=lambda save: (save.step, save.attempt or 0))


def is_whole(path: AnyPath) -> bool:
    """Returns whether a folder with the name of a save is one that was finished; a copy of either place counts in the other."""
    if storage.is_remote(path) or "." in path.name:
        return (path / COMMIT).exists()
    return path.is_dir()


def mark(path: AnyPath) -> None:
    """Adds the commit file to a whole save on a local disk, so that a copy of it in an object store is whole too."""
    if not storage.is_remote(path) and path.is_dir() and not (path / COMMIT).exists():
        storage.write_bytes(path / COMMIT, b"")


def inherit(directory: AnyPath, attempt: int) -> None:
    """Records which saves an attempt goes on from: those of others that are committed later stay unseen."""
    names = [path.name for path in saves_in(directory).values()]
    storage.make_folder(_attempts(directory))
    storage.write_json(_attempts(directory) / f"{attempt:04d}.saves.json", {"saves": names})
    for name in storage.names_in(_attempts(directory)):
        match = RECORD.fullmatch(name)
        if match and int(match[1]) < attempt:
            storage.remove(_attempts(directory) / name)


def set_aside(path: AnyPath, why: str) -> None:
    """Makes a save invisible and keeps it: by another name, or without its commit file in an object store."""
    if storage.is_remote(path):
        storage.write_bytes(path / DAMAGED, f"{why}\n".encode())
        storage.remove(path / COMMIT)
        return
    target = path.with_name(f"{path.name}.{why}")
    storage.remove_tree(target)
    path.rename(target)


def remove(path: AnyPath) -> None:
    """Removes a save; no half of it is ever visible."""
    if storage.is_remote(path):
        storage.remove_tree(path, first=COMMIT)
    else:
        target = path.with_name(f"{path.name}.removed")
        storage.remove_tree(target)
        storage.remove_tree(path.rename(target))


def clear(directory: AnyPath) -> None:
    """Removes what interrupted writes and removals have left, and saves that are not visible."""
    visible = set(saves_in(directory).values())
    for name in storage.names_in(directory):
        path = directory / name
        left = ".orbax-checkpoint-tmp" in name or name.endswith(".removed")
        unseen = NAME.fullmatch(name) and path not in visible and not (path / DAMAGED).exists()
        if left or unseen:
            storage.remove_tree(path, first=COMMIT)


def _attempts(directory: AnyPath) -> AnyPath:
    return directory.parent / "attempts"


def _newest_record(directory: AnyPath) -> tuple[int, set[str]] | None:
    """Returns the last attempt that has recorded what it goes on from, and the names of those saves."""
    folder = _attempts(directory)
    while numbers := [int(m[1]) for name in storage.names_in(folder) if (m := RECORD.fullmatch(name))]:
        path = folder / f"{max(numbers):04d}.saves.json"
        try:
            return max(numbers), set(storage.read_json(path)["saves"])
        except storage.StorageError:
            if path.exists():  # else a newer attempt has replaced it
                raise
    return None


def _attempt_of(save: Save, unknown: int) -> int:
    """Returns the attempt that wrote a save; `unknown` if it cannot be read, for the restore to name what is damaged."""
    if save.attempt is not None:
        return save.attempt
    try:
        meta = storage.read_json(save.path / "meta" / "metadata")
    except storage.StorageError:
        return unknown
    attempt = meta.get("attempt", 0) if isinstance(meta, dict) else unknown
    return attempt if isinstance(attempt, int) else unknown
