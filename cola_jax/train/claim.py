"""Exclusive access to a workdir: one run at a time, through the first of its processes.

WORKDIR/attempts/0007.json is the claim of the seventh start, which is created only if it does not exist: two starts cannot
share it. The highest number holds the workdir. Its process rewrites the file at every heartbeat, and marks it released at its
end. A claim whose process is gone, or that no heartbeat changes for the time of a lease by the watcher's own clock, is taken
over by the next number. A holder that finds a higher number has lost the workdir and stops, and `saves` hides what it commits.
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
from typing import Any, NamedTuple

import jax

from cola_jax import storage
from cola_jax.parallel.hosts import from_first
from cola_jax.storage import AnyPath
from cola_jax.train.workdir import WorkdirError


class Rhythm(NamedTuple):
    """Seconds between heartbeats, and without one until a claim is over."""

    heartbeat: float
    lease: float


LOCAL, REMOTE = Rhythm(5.0, 30.0), Rhythm(10.0, 60.0)  # a put costs money and may take seconds
POLL = 0.5
KEPT = 8  # number of earlier claims that are kept
Say = Callable[[str], None]


class ClaimLost(WorkdirError):
    """Another process has taken over the workdir."""

    exit_status = 1


class Claim:
    """The claim of this process; its heartbeat is a thread.

    Attributes:
      span: the step that the run continues after, and the last one done, which each heartbeat writes; None before.
    """

    def __init__(self, folder: AnyPath, attempt: int, heartbeat: float):
        self.attempt, self.lost = attempt, False
        self.span: tuple[int, int] | None = None
        self._heartbeat = heartbeat
        self._folder, self._path = folder, _path(folder, attempt)
        self._facts, self._beat = _identity() | {"attempt": attempt, "released": False}, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="workdir claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises ClaimLost if a later attempt holds the workdir, or the workdir is gone."""
        newest = attempts(self._folder)[-1:]
        if newest == [] or newest[0] < self.attempt:
            self.lost = True
            raise ClaimLost(
                f"{self._folder.parent} was moved, renamed or removed while this process was using it; it stops. Where the "
                "workdir is now, the same command continues from its newest checkpoint"
            )
        if newest[0] > self.attempt:
            self.lost = True
            holder = _read(_path(self._folder, newest[0]))
            raise ClaimLost(
                f"{self._folder.parent} was taken over by {_name(holder)} while this process did not answer; "
                "it stops, and its checkpoints are kept"
            )

    def earlier(self, after: int) -> list[dict[str, Any]]:
        """Returns the claims of the attempts between `after` and this one that are still there."""
        return [_read(_path(self._folder, n)) for n in attempts(self._folder) if after < n < self.attempt]

    def release(self) -> None:
        """Ends the claim, so that the next start does not wait."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # as below; the lease ends by itself
            if attempts(self._folder)[-1:] == [self.attempt]:
                self._write(released=True)

    def _keep_beating(self) -> None:
        while not self._over.wait(self._heartbeat):
            with contextlib.suppress(Exception):  # a full disk, a store that does not answer: the next beat may succeed
                if attempts(self._folder)[-1:] != [self.attempt]:
                    self.lost = True
                    return
                self._write()

    def _write(self, **changes: Any) -> None:
        self._beat += 1
        steps = {} if self.span is None else dict(zip(("from_step", "step"), self.span))
        storage.write_json(self._path, self._facts | steps | {"beat": self._beat} | changes)


def take(workdir: AnyPath, say: Say, rhythm: Rhythm | None = None) -> Claim:
    """Claims `workdir`, which is created if it does not exist.

    Args:
      say: called with a line about the holder that is waited for or taken over from.

    Raises:
      WorkdirError: if another run is using it.
    """
    folder, rhythm = workdir / "attempts", rhythm or (REMOTE if storage.is_remote(workdir) else LOCAL)
    storage.make_folder(folder)
    while True:
        newest = attempts(folder)[-1:]
        if newest:
            _await_end(workdir, _path(folder, newest[0]), say, rhythm.lease)
        attempt = newest[0] + 1 if newest else 1
        content = json.dumps(_identity() | {"attempt": attempt, "released": False, "beat": 0}, indent=2) + "\n"
        if not storage.create(_path(folder, attempt), content.encode()):  # another start was faster
            continue
        for old in attempts(folder)[:-KEPT]:
            storage.remove(_path(folder, old))
        return Claim(folder, attempt, rhythm.heartbeat)


@contextlib.contextmanager
def claimed(workdir: AnyPath, say: Say) -> Iterator[tuple[Claim | None, int]]:
    """Holds the claim of a run, which its first process takes, while the body runs; gives it, None in the
    others, and the number of the attempt.

    Raises:
      WorkdirError: in every process, if another run is using the workdir.
    """
    claim, problem = None, ""
    if jax.process_index() == 0:
        try:
            claim = take(workdir, say)
        except WorkdirError as error:
            problem = str(error)
        except Exception as error:  # the other processes wait for the answer
            if not isinstance(error, OSError) and not storage.is_store_error(error):
                raise
            reason = storage.reason(error) if isinstance(error, OSError) else str(error)
            problem = f"{workdir} cannot be written: {reason}"
    found = json.loads(from_first(lambda: json.dumps([problem, claim.attempt if claim else 0]).encode()))
    if found[0]:
        raise WorkdirError(found[0])
    try:
        yield claim, found[1]
    finally:
        if claim is not None:
            claim.release()


def attempts(folder: AnyPath) -> list[int]:
    """Returns the numbers of the claims in a folder, ascending."""
    names = [name.removesuffix(".json") for name in storage.names_in(folder) if name.endswith(".json")]
    return sorted(int(name) for name in names if name.isdigit())


def _path(folder: AnyPath, attempt: int) -> AnyPath:
    return folder / f"{attempt:04d}.json"


def _await_end(workdir: AnyPath, path: AnyPath, say: Say, lease: float) -> None:
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


def _read(path: AnyPath) -> dict[str, Any]:
    """Returns a claim; {} if it is incomplete or removed."""
    try:
        facts = storage.read_json(path)
    except storage.StorageError:
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
