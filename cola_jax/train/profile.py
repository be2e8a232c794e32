"""A trace of some steps for xprof, and the costliest operations in it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cola_jax import storage
from cola_jax.storage import AnyPath
from cola_jax.train.goodput import Clock
from cola_jax.train.progress import Progress

SHOWN = 10
CONTROL = re.compile(r"%?(while|conditional|call)(\.\d+)?")  # their bodies' operations are events of their own


class Operation(NamedTuple):
    """One operation of a compiled program: seconds and calls over all devices of this process."""

    name: str
    program: str
    seconds: float
    calls: int


class Profile:
    """Traces the steps `first`..`last` into `folder`.

    Args:
      start: steps done before this start of the run; a window that began before is not traced.
      progress: of the run, for the lines about the trace; clock: of the run.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: AnyPath, start: int, progress: Progress, clock: Clock):
        self._steps, self._progress, self._clock, self._traced = steps, progress, clock, 0
        name = f"process_{jax.process_index()}" if jax.process_count() > 1 else ""  # a host may run several
        self._folder = folder / name if name else folder
        self._stack = ExitStack()
        self._into: Path | None = None  # the local folder of the trace that runs
        if steps is not None and steps[0] <= start:
            self._steps = None
            progress.say(f"train.profile: step {steps[0]} is done already; nothing is traced")

    def before(self, step: int, state: Any) -> None:
        """Starts the trace if `step` is the first of the window; `state` is waited for, so that it has no earlier step."""
        if self._steps is None or step != self._steps[0]:
            return
        jax.block_until_ready(state)
        remote = storage.is_remote(self._folder)
        self._into = self._stack.enter_context(storage.temporary_folder()) if remote else self._folder
        storage.make_folder(self._into)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it slows the loop down
        with self._paused():
            jax.profiler.start_trace(str(self._into), profiler_options=options)

    def after(self, step: int, state: Any) -> None:
        """Ends the trace if `step` is the last of the window; `state`, of after it, is waited for."""
        if self._into is None:
            return
        self._traced += 1
        if step == self._steps[1]:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends a trace that runs, writes it and prints its costliest operations."""
        if self._into is None:
            return
        into, self._into = self._into, None
        with self._stack, self._paused():
            jax.profiler.stop_trace()
            if storage.is_remote(self._folder):
                storage.upload(into, self._folder)
            newest = max(into.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
            self._progress.say(f"profile of {self._traced} steps: {self._folder}")
            self._progress.say(table(operations(newest)))

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Counts the time of the body neither as that of steps nor in the speed."""
        with self._progress.pause(), self._clock.part("other"):
            yield


def operations(path: Path) -> list[Operation]:
    """Returns the operations of an *.xplane.pb file, costliest first, without control flow."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    calls: dict[tuple[str, str], int] = defaultdict(int)
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = {name: value for name, value in event.stats if name in ("hlo_op", "hlo_module")}
                if "hlo_op" not in stats or CONTROL.fullmatch(str(stats["hlo_op"])):
                    continue
                key = (str(stats["hlo_op"]), str(stats.get("hlo_module", "")))
                seconds[key] += event.duration_ns * 1e-9
                calls[key] += 1
    found = [Operation(*key, seconds[key], calls[key]) for key in seconds]
    return sorted(found, key=lambda one: (-one.seconds, one.name))


def table(found: Iterable[Operation]) -> str:
    """Returns the costliest operations as text: name, total milliseconds, calls, share of all."""
    found = list(found)
    total = sum(one.seconds for one in found)
    if not total:
        return "the trace holds no operation of a compiled program"
    shown = found[:SHOWN]
    width = max(len(one.name) for one in shown)
    head = f"{'operation':{width}}  {'total ms':>10}  {'calls':>7}  {'share':>6}  program"
    rows = [
        f"{one.name:{width}}  {1e3 * one.seconds:10.3f}  {one.calls:7d}  {one.seconds / total:6.1%}  {one.program}"
        for one in shown
    ]
    return "\n".join([head, *rows])
