"""Where the time of a run goes: goodput, the share of it spent in steps that count, and badput, the rest by part.

Every second of a start belongs to one of PARTS:
  import      of the command, until training is called, connecting to other processes included
  setup       tokenizer, corpus and starting point; 0 where they are given
  restore     making the first state, from a checkpoint or new
  compile     tracing, lowering and compiling, or reading from the compilation cache; left out of the part where it happens
  data_wait   waiting for the next batch
  step        the loop less the other parts: devices compute while the loop runs, so this is where it waits for them
  checkpoint  blocking writes of checkpoints, and waiting for those in the background
  evaluation, plots, other

Lost work is the time of steps that an earlier start has done after the checkpoint that a later one resumes from. It is
estimated: those steps times the last known time of a step. How far a start that was killed had come is read in the metrics that
are dropped at the resume, and in its claim, which holds its step as of the last heartbeat (5 s, on an object store 10 s; there
the metrics after the last checkpoint are unknown). Of a killed start only the steps are known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cola_jax.train.compiles import Compiles, observed
from cola_jax.train.metrics import GOODPUT, is_goodput

PARTS = (
    "import", "setup", "restore", "compile", "data_wait", "step", "checkpoint", "evaluation", "plots", "other",
)  # fmt: skip
LOST, ALL, ATTEMPT, ESTIMATED = "lost_work", f"{GOODPUT}all/", f"{GOODPUT}attempt", f"{GOODPUT}estimated"


class Clock:
    """Seconds by part. Parts nest: a second counts in the innermost one alone.

    Args:
      begun: time.perf_counter() at the start of the command.
      now: the clock, in seconds.
    """

    def __init__(
        self,
        compiles: Compiles | None = None,
        begun: float | None = None,
        now: Callable[[], float] = time.perf_counter,
    ):
        self.compiles, self._now = compiles or Compiles(), now
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._mark, self._compiled = "other", now(), self.compiles.seconds
        self._seconds["import"] = 0.0 if begun is None else self._mark - begun

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time of the body in a part."""
        outer = self._part
        self._charge(name)
        try:
            yield
        finally:
            self._charge(outer)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each part so far."""
        self._charge(self._part)
        return dict(self._seconds)

    def _charge(self, then: str) -> None:
        now, compiled = self._now(), self.compiles.seconds
        compiling = min(max(compiled - self._compiled, 0.0), now - self._mark)
        self._seconds["compile"] += compiling
        self._seconds[self._part] += now - self._mark - compiling
        self._part, self._mark, self._compiled = then, now, compiled


@contextmanager
def running(begun: float | None = None) -> Iterator[Clock]:
    """Gives a clock that knows what jax compiles in the body; `begun` as in `Clock`."""
    with observed() as compiles:
        yield Clock(compiles, begun)


def accounted(lines: Sequence[dict[str, Any]]) -> int:
    """Returns the last attempt of which the lines of metrics.jsonl have the time; 0 if there is none."""
    return max((int(line[ATTEMPT]) for line in lines if line.get(ATTEMPT) is not None), default=0)


def line_of_killed(
    lines: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]], attempt: int, start: int, tokens_per_step: int
) -> dict[str, Any] | None:
    """Returns the line of metrics.jsonl about starts that were killed, and about lost work; None if there is neither.

    Args:
      lines: of metrics.jsonl, before those after step `start` are dropped.
      claims: of the attempts after `accounted(lines)`, see `Claim.earlier`.
      attempt: the new one, which continues after step `start`.
    """
    known = [claim for claim in claims if "from_step" in claim and "step" in claim]
    rates = [line["tokens_per_second"] for line in lines if line.get("tokens_per_second")]
    seconds = tokens_per_step / rates[-1] if rates else 0.0
    trained = [line["step"] for line in lines if not is_goodput(line)]
    reached = max([start, *trained, *(claim["step"] for claim in known)])
    lost = seconds * (reached - start)
    steps = seconds * sum(claim["step"] - claim["from_step"] for claim in known)
    if lost + steps <= 0.0:
        return None
    values = {"step": steps, "total": steps, LOST: lost}
    return {"step": start, ATTEMPT: attempt - 1, ESTIMATED: 1} | {GOODPUT + name: x for name, x in values.items()}


def line_of(
    clock: Clock, earlier: Sequence[dict[str, Any]], attempt: int, from_step: int, to_step: int
) -> dict[str, float]:
    """Returns the metrics of a start at its end: seconds by part, programs compiled, and the sums over all starts.

    Args:
      earlier: the lines of metrics.jsonl that the start began with.
    """
    seconds = clock.seconds()
    total = sum(seconds.values())
    repeated = [line for line in earlier if line.get(ESTIMATED) and line[ATTEMPT] == attempt - 1]
    lost = repeated[-1][GOODPUT + LOST] if repeated else 0.0
    programs = {"compiled_programs": clock.compiles.compiled, "cached_programs": clock.compiles.cached}
    values = seconds | {"total": total, "share": seconds["step"] / total, LOST: lost} | programs
    line = {ATTEMPT: attempt, f"{GOODPUT}from_step": from_step, f"{GOODPUT}to_step": to_step}
    line |= {GOODPUT + name: value for name, value in values.items()}
    return line | {ALL + name: value for name, value in _sums([*earlier, line]).items()}


def _sums(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    sums = {name: sum(line.get(GOODPUT + name) or 0.0 for line in lines) for name in (*PARTS, "total")}
    sums[LOST] = sum(
        line[GOODPUT + LOST] for line in lines if line.get(ESTIMATED)
    )  # once, not in the line of the end too
    useful = max(sums["step"] - sums[LOST], 0.0)
    return sums | {"share": useful / sums["total"] if sums["total"] else 0.0}


def describe(line: dict[str, float]) -> str:
    """Returns what a run prints of `line_of`."""
    get = lambda name, prefix=GOODPUT: line[prefix + name]
    lost = get(LOST, ALL)
    lines = [
        f"goodput {get('share'):.1%}: {get('step'):.1f} of {get('total'):.1f} s in steps; {_parts(line, GOODPUT)}",
        f"programs: {get('compiled_programs'):.0f} compiled, {get('cached_programs'):.0f} from the compilation cache",
    ]
    if line[ATTEMPT] > 1:
        lines.append(
            f"all {line[ATTEMPT]:.0f} starts: goodput {get('share', ALL):.1%} of {get('total', ALL):.1f} s; "
            f"lost work {lost:.1f} s ({_percent(lost, get('total', ALL))}), {_parts(line, ALL)}"
        )
    return "\n".join(lines)


def _parts(line: dict[str, float], prefix: str) -> str:
    total, badput = line[f"{prefix}total"], [name for name in PARTS if name != "step"]
    seconds = {name: line[prefix + name] for name in badput}
    shown = sorted((name for name in badput if seconds[name] >= 0.05), key=lambda name: -seconds[name])
    return ", ".join(f"{name} {seconds[name]:.1f} s ({_percent(seconds[name], total)})" for name in shown)


def _percent(part: float, total: float) -> str:
    return f"{part / total:.1%}" if total else "0.0%"
