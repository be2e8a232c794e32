"""Exclusive access to a workdir: one run at a time, through the first of its processes.

WORKDIR/attempts/0007.json is the claim of the seventh start, created with O_EXCL, so that two starts cannot share it. The
highest number holds the workdir. Its process rewrites the file every HEARTBEAT seconds, and marks it released at its end. A
claim whose process is gone, or that no heartbeat changes for LEASE seconds by the watcher's own clock, is taken over by the
next number. A holder that finds a higher one has lost the workdir, and stops before its next write.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from cola_jax.parallel.hosts import from_first
from cola_jax.storage import reason, write_json
from cola_jax.train.workdir import WorkdirError

HEARTBEAT, LEASE = 5.0, 30.0  # seconds
POLL = 0.5
KEPT = 8  # number of earlier claims that are kept
Say = Callable[[str], None]


class ClaimLost(WorkdirError):
    """Another process has taken over the workdir."""

    exit_status = 1


class Claim:
    """The claim of this process; its heartbeat is a thread."""

    def __init__(self, folder: Path, attempt: int):
        self.attempt = attempt
        self._folder, self._path = folder, _path(folder, attempt)
        self._facts, self._beat = _identity() | {"attempt": attempt, "released": False}, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="workdir claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises ClaimLost if a later attempt holds the workdir."""
        newest = attempts(self._folder)[-1:]
        if newest and newest[0] > self.attempt:
            holder = _read(_path(self._folder, newest[0]))
            raise ClaimLost(
                f"{self._folder.parent} was taken over by {_name(holder)} while this process did not answer; "
                "it stops, and its checkpoints are kept"
            )

    def release(self) -> None:
        """Ends the claim, so that the next start does not wait."""
        self._over.set()
        self._thread.join()
        if attempts(self._folder)[-1:] == [self.attempt]:
            with contextlib.suppress(OSError):
                self._write(released=True)

    def _keep_beating(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a full disk; the next heartbeat may succeed
                if attempts(self._folder)[-1:] != [self.attempt]:
                    return
                self._write()

    def _write(self, **changes: Any) -> None:
        self._beat += 1
        write_json(self._path, self._facts | {"beat": self._beat} | changes)


def take(workdir: Path, say: Say, lease: float = LEASE) -> Claim:
    """Claims `workdir`, which is created if it does not exist.

    Args:
      say: called with a line about the holder that is waited for or taken over from.

    Raises:
      WorkdirError: if another run is using it.
    """
    folder = workdir / "attempts"
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        newest = attempts(folder)[-1:]
        if newest:
            _await_end(workdir, _path(folder, newest[0]), say, lease)
        attempt = newest[0] + 1 if newest else 1
        content = json.dumps(_identity() | {"attempt": attempt, "released": False, "beat": 0}, indent=2) + "\n"
        try:
            with open(_path(folder, attempt), "x") as file:
                file.write(content)
        except FileExistsError:  # another start was faster
            continue
        for old in attempts(folder)[:-KEPT]:
            _path(folder, old).unlink(missing_ok=True)
        return Claim(folder, attempt)


@contextlib.contextmanager
def claimed(workdir: Path, say: Say) -> Iterator[Claim | None]:
    """Holds the claim of a run, which its first process takes, while the body runs; None in the others.

    Raises:
      WorkdirError: in every process, if another run is using the workdir.
    """
    claim, problem = None, ""
    if jax.process_index() == 0:
        try:
            claim = take(workdir, say)
        except WorkdirError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{workdir} cannot be written: {reason(error)}"
    problem = from_first(problem.encode).decode()
    if problem:
        raise WorkdirError(problem)
    try:
        yield claim
    finally:
        if claim is not None:
            claim.release()


def attempts(folder: Path) -> list[int]:
    """Returns the numbers of the claims in a folder, ascending."""
    names = (
        [name.removesuffix(".json") for name in os.listdir(folder) if name.endswith(".json")] if folder.is_dir() else []
    )
    return sorted(int(name) for name in names if name.isdigit())


def _path(folder: Path, attempt: int) -> Path:
    return folder / f"{attempt:04d}.json"


def _await_end(workdir: Path, path: Path, say: Say, lease: float) -> None:
    """Waits for the end of the claim at `path`; raises WorkdirError if its holder is alive."""
    first = _read(path)
    waited_since = time.monotonic()
    while True:
        holder = _read(path)
        if holder.get("released"):
            return
        if _is_here(holder):
            if _lives(holder):
                raise WorkdirError(
                    f"{workdir} is in use by {_name(holder)}: stop that run first, or give another workdir"
                )
            say(f"{workdir}: taking over from {_name(holder)}, which is gone")
            return
        if holder and first and holder.get("beat") != first.get("beat"):
            raise WorkdirError(f"{workdir} is in use by {_name(holder)}: stop that run first, or give another workdir")
        first = first or holder
        waited = time.monotonic() - waited_since
        if waited >= lease:
            say(f"{workdir}: taking over from {_name(holder)}, which has not answered for {lease:.0f} s")
            return
        if waited < POLL:
            say(f"{workdir} was in use by {_name(holder)}: waiting up to {lease:.0f} s for a heartbeat")
        time.sleep(POLL)


def _read(path: Path) -> dict[str, Any]:
    """Returns a claim; {} if it is incomplete or removed."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _identity() -> dict[str, Any]:
    """Returns the identity of this process: a process id is valid on one boot of one machine, in one namespace."""
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """Returns when a process started, in clock ticks since boot; "" if that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_here(holder: dict[str, Any]) -> bool:
    return holder.get("machine") == _machine()


def _lives(holder: dict[str, Any]) -> bool:
    """Whether a process of this machine still runs, and is the one that made the claim."""
    pid = holder.get("pid", 0)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(pid) == holder.get("started")


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')}"
