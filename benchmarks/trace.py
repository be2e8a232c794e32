"""Device time of a profiler trace, by the operation of the program that the instructions belong to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

LOOPS = ("while", "body", "closed_call", "checkpoint", "branch_1_fun")  # path parts that name no operation of ours
NAMED = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', re.MULTILINE)


class Spent(NamedTuple):
    """Device seconds in one operation, and its share of the traced time."""

    name: str
    seconds: float
    share: float


class Event(NamedTuple):
    """One event of a line of a trace: the instruction it ran, and when, in ns."""

    instruction: str
    start: float
    duration: float


def traced(run: Callable[[], object], folder: str | Path, hlo_text: str) -> list[Spent]:
    """Profiles one call of `run` to its end. Returns the device's costs, the largest first.

    Args:
      folder: where the trace is written. hlo_text: of the compiled program, which maps instructions to operations.

    Raises:
      RuntimeError: if the trace has no event of a device.
    """
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(run())
    files = sorted(Path(folder).rglob("*.xplane.pb"))
    lines = [list(line) for file in files for line in device_lines(jax.profiler.ProfileData.from_file(str(file)))]
    found = spent(lines, dict(NAMED.findall(hlo_text)))
    if not found:
        raise RuntimeError(f"the trace in {folder} has no event of a device: its profiler may not be permitted here")
    return found


def device_lines(data: jax.profiler.ProfileData) -> Iterator[Iterator[Event]]:
    """The lines of a trace whose events are instructions: the streams of a GPU, the operations of a TPU, a CPU's threads."""
    for plane in data.planes:
        lines = list(plane.lines)
        if plane.name.startswith("/device:"):
            operations = [line for line in lines if line.name == "XLA Ops"]
            streams = [line for line in lines if line.name.startswith("Stream")]
            yield from (map(_event, line.events) for line in operations or streams)
        elif plane.name == "/host:CPU":
            yield from (filter(None, map(_event_of_cpu, line.events)) for line in lines)


def _event(event) -> Event:
    """Some backends name an event by the instruction, some by its text, some by its kernel and the instruction in a field."""
    name = dict(event.stats).get("hlo_op") or re.match(r"%?([^\s=]*)", event.name).group(1)
    return Event(str(name), event.start_ns, event.duration_ns)


def _event_of_cpu(event) -> Event | None:
    """A CPU's threads have other events too."""
    return _event(event) if "hlo_op" in dict(event.stats) else None


def spent(lines: Iterable[Iterable[Event]], operations: dict[str, str]) -> list[Spent]:
    """Adds up lines by operation; an event's own time excludes that of the events inside it (a loop contains its body).

    Args:
      operations: {instruction: op_name}; an instruction without one keeps its own name.
    """
    totals: dict[str, float] = {}
    for line in lines:
        for instruction, own in _own_times(line):
            name = _short(operations.get(instruction, "")) or instruction
            totals[name] = totals.get(name, 0.0) + own * 1e-9
    whole = sum(totals.values())
    found = [Spent(name, seconds, seconds / whole) for name, seconds in totals.items() if seconds > 0]
    return sorted(found, key=lambda one: -one.seconds)


def _own_times(line: Iterable[Event]) -> Iterator[tuple[str, float]]:
    """Each event's instruction and its duration less that of the events inside it."""
    open_events: list[list] = []  # [instruction, end, own time], each inside the one before it
    for event in sorted(line, key=lambda one: (one.start, -one.duration)):
        while open_events and open_events[-1][1] <= event.start:
            instruction, _, own = open_events.pop()
            yield instruction, own
        if open_events:
            open_events[-1][2] -= event.duration
        open_events.append([event.instruction, event.start + event.duration, event.duration])
    yield from ((instruction, own) for instruction, _, own in open_events)


def _short(op_name: str) -> str:
    """An op_name without the program's own name and its loops."""
    return "/".join(part for part in op_name.split("/")[1:] if part not in LOOPS)
