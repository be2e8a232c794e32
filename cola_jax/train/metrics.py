"""The metrics of a run: one JSON object per line in metrics.jsonl, and the same for TensorBoard.

Training metrics have plain names, held-out ones start with "heldout/", and where the time of a start went is in one line of
names with "goodput/" (see `goodput`). A number that is not finite is null.
On a local disk a line is written at once. In an object store, where nothing can be appended, both are kept here until `flush`,
which the loop calls before each checkpoint: a resumed run has every line up to its step exactly once.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from cola_jax import storage
from cola_jax.errors import UserError
from cola_jax.storage import AnyPath
from cola_jax.train.event_file import EventFile

GOODPUT = "goodput/"  # prefix of the names in the line that a start of a run writes about its time


def metrics_path(workdir: str | AnyPath) -> AnyPath:
    """Returns the path of a run's metrics."""
    return storage.path(workdir) / "metrics.jsonl"


def read_metrics(workdir: str | AnyPath) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl, without an incomplete one of a killed process."""
    path, lines = metrics_path(workdir), []
    if not path.exists():
        return lines
    for text in storage.read_bytes(path).decode(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def is_goodput(line: dict[str, Any]) -> bool:
    """Returns whether a line is about the time of a start, not about a step."""
    return any(name.startswith(GOODPUT) for name in line)


def truncate(workdir: str | AnyPath, step: int, added: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Drops the lines after `step` from metrics.jsonl, and an incomplete one. Returns those that are kept.

    The time of earlier starts was spent whatever steps are repeated: their lines are kept, at `step` at the latest.

    Args:
      added: lines to add to those that are kept.
    """
    lines = [line for line in read_metrics(workdir) if line["step"] <= step or is_goodput(line)]
    kept = [json.dumps(line | {"step": min(line["step"], step)}) + "\n" for line in [*lines, *added]]
    path = metrics_path(workdir)
    if kept or path.exists():
        storage.write_bytes(path, "".join(kept).encode())
    return kept


class MetricsLog:
    """Writes metrics.jsonl and tensorboard/ of a run that continues after `step`.

    Args:
      check: raises an error if the workdir is no longer this run's.
      added: lines about earlier starts, see `truncate`.
    """

    def __init__(
        self,
        workdir: str | AnyPath,
        step: int,
        check: Callable[[], None] = lambda: None,
        added: Sequence[dict[str, Any]] = (),
    ):
        self._path, self._check = metrics_path(workdir), check
        self._stack = contextlib.ExitStack()
        boards = self._path.parent / "tensorboard"
        self._boards = boards if storage.is_remote(boards) else None
        self._file = storage.LineFile(self._path, truncate(workdir, step, added))
        self._local_boards = self._stack.enter_context(storage.temporary_folder()) if self._boards else boards
        self._board = EventFile(self._local_boards, step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one line; on a local disk it is in the file afterwards."""
        finite = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        line = json.dumps({"step": step, **finite}) + "\n"
        self._file.write(line)
        for name, value in finite.items():
            if value is not None:  # TensorBoard draws no other
                self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)
        self._board.flush()

    def flush(self) -> None:
        """Puts what was added since the last flush into the object store, if the workdir is still this run's."""
        if self._boards is None:
            return
        self._check()
        self._file.flush()
        storage.upload(self._local_boards, self._boards)

    def close(self) -> None:
        """Flushes and closes the files; a run that has lost its workdir leaves it alone."""
        try:
            with contextlib.suppress(UserError):
                self.flush()
        finally:
            self._file.close()
            self._board.close()
            self._stack.close()


class NoLog:
    """The metrics log of the other processes of a run, which write nothing."""

    def write(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
