"""The components of the loop, and the metrics of its steps, fetched one step late."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import Mesh

from cola_jax.config import RunConfig
from cola_jax.errors import UserError
from cola_jax.families.family import Batch, Family
from cola_jax.storage import AnyPath
from cola_jax.train.checkpoint import Checkpoints
from cola_jax.train.claim import Claim
from cola_jax.train.goodput import Clock
from cola_jax.train.metrics import MetricsLog, NoLog
from cola_jax.train.progress import Progress
from cola_jax.train.state import TrainState
from cola_jax.train.step import train_step


class TrainingDiverged(UserError):
    """A loss or gradient that is not finite.

    Attributes:
      step: the update that was not applied, 1 being the first.
      terms: the names of the metrics that are not finite.
      skipped: updates of the run that were skipped before.
    """

    exit_status = 1

    def __init__(self, step: int, terms: list[str], skipped: int = 0):
        before = f" after {skipped} skipped (train.skip_nonfinite)" if skipped else ""
        super().__init__(
            f"training diverged at step {step}: {', '.join(terms)} not finite. The update was not applied{before}, and "
            "checkpoints are of earlier steps. A lower optimizer.learning_rate or clip_norm, or more optimizer.warmup_steps, "
            "may help"
        )
        self.step, self.terms, self.skipped = step, terms, skipped


SAVE, STOP, LOST = 1, 2, 3  # votes of a process; the highest one wins


@dataclass
class Run:
    """The components and the state of the loop. `claim` to `progress` are set when the workdir is claimed."""

    cfg: RunConfig
    family: Family
    workdir: AnyPath
    mesh: Mesh
    abstract: TrainState
    put: Callable[[Batch], Batch]
    heldout_batches: Sequence[Batch]
    updates: dict[tuple[str, ...], Callable] = field(default_factory=dict)
    mfu_of: Callable[[float], float] | None = None  # tokens per second to MFU, if the devices' peak is known
    claim: Claim | None = None  # of the first process
    checkpoints: Checkpoints | None = None
    log: MetricsLog | NoLog | None = None
    progress: Progress | None = None
    pending: tuple[int, Any, Any] | None = None  # a step in flight, its metrics, and the vote: fetched one step late
    saved_at: float = 0.0  # time.monotonic() of the last checkpoint, or of the start
    metrics: dict[str, float] = field(default_factory=dict)
    heldout: dict[str, float] = field(default_factory=dict)
    heldout_step: int = -1  # that `heldout` is of
    evaluation: Callable | None = None
    asked: int = 0  # the highest vote received in this step: LOST, STOP, SAVE or 0
    clock: Clock = field(default_factory=Clock)
    start: int = 0  # steps done before this start
    fetched: int = 0  # the last step whose metrics were fetched
    skipped: int = 0  # updates that were skipped in the whole run, see train.skip_nonfinite
    earlier: list[dict[str, Any]] = field(default_factory=list)  # lines of metrics.jsonl that this start began with

    def save_is_due(self) -> bool:
        """Whether checkpoint.every_minutes have passed since the last checkpoint."""
        minutes = self.cfg.checkpoint.every_minutes
        return minutes > 0 and time.monotonic() - self.saved_at >= 60.0 * minutes

    def lost(self) -> bool:
        """Whether another run has taken the workdir over, as far as the first process has noticed."""
        return self.claim is not None and self.claim.lost

    def save(self, state: TrainState, scores: dict[str, float]) -> None:
        """Writes a checkpoint, if the workdir is still this run's."""
        if self.claim is not None:
            self.claim.check()
        self.log.flush()
        with self.progress.pause():
            self.checkpoints.save(state, scores, self.skipped)
        self.saved_at = time.monotonic()

    def rates(self, tokens_per_second: float) -> dict[str, float]:
        """The metrics of speed."""
        found = {"tokens_per_second": tokens_per_second}
        return found if self.mfu_of is None else {**found, "mfu": self.mfu_of(tokens_per_second)}


def update_for(run: Run, trained: tuple[str, ...]) -> Callable:
    """Returns the compiled step that trains these groups."""
    if trained not in run.updates:
        run.updates[trained] = train_step(run.cfg, run.family, trained, run.mesh, run.abstract)
    return run.updates[trained]


def process_metrics(run: Run) -> None:
    """Fetches the metrics that are pending, prints and writes them; the vote fetched with them may raise `run.asked`.

    Raises:
      TrainingDiverged: if that step was not finite, and train.skip_nonfinite updates of the run have been skipped already.
    """
    if run.pending is None:
        return
    step, metrics, vote = run.pending
    run.pending = None
    loss, nonfinite, vote = jax.device_get((metrics["loss"], metrics["nonfinite"], vote))
    train, diverged = run.cfg.train, bool(nonfinite) and run.skipped >= run.cfg.train.skip_nonfinite
    run.fetched = step
    if run.claim is not None:
        run.claim.span = (run.start, step)
    if not diverged:
        run.skipped += int(nonfinite)
        run.progress.advance(step, float(loss))
    if nonfinite or step in (1, train.steps) or step % train.log_every == 0:
        values = {name: float(value) for name, value in jax.device_get(metrics).items() if name != "nonfinite"}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if train.skip_nonfinite:
            values["skipped_steps"] = float(run.skipped)
        rate = run.progress.report(step, float(loss))
        run.metrics = values if rate is None else {**values, **run.rates(rate)}
        run.log.write(step, run.metrics)
        if diverged:
            raise TrainingDiverged(step, wrong, run.skipped)
        if nonfinite:
            run.progress.say(
                f"step {step}: {', '.join(wrong)} not finite; the update is skipped, {run.skipped} of at most "
                f"{train.skip_nonfinite} (train.skip_nonfinite)"
            )
    run.asked = max(run.asked, int(vote))
