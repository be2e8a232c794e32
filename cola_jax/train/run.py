"""What the loop does with a step: its metrics fetched a step late, held-out evaluation, pictures."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cola_jax.config import ConfigError, RunConfig
from cola_jax.errors import UserError
from cola_jax.families.family import Batch, Family
from cola_jax.train.checkpoint import Checkpoints
from cola_jax.train.claim import Claim
from cola_jax.train.metrics import MetricsLog, NoLog
from cola_jax.train.plots import plot_metrics
from cola_jax.train.progress import Progress
from cola_jax.train.state import TrainState
from cola_jax.train.step import eval_step, evaluate, train_step


class TrainingDiverged(UserError):
    """A loss or gradient that is not finite.

    Attributes:
      step: the update that was not applied, 1 being the first.
      terms: the names of the metrics that are not finite.
    """

    exit_status = 1

    def __init__(self, step: int, terms: list[str]):
        super().__init__(
            f"training diverged at step {step}: {', '.join(terms)} not finite. The update was not applied, and checkpoints are "
            "of earlier steps. A lower optimizer.learning_rate or clip_norm, or more optimizer.warmup_steps, may help"
        )
        self.step, self.terms = step, terms


SAVE, STOP = 1, 2  # what a process may ask of the loop, the larger the more


@dataclass
class Run:
    """What the loop works with, and what it has learnt so far. `claim` to `progress` are set once the workdir is this run's."""

    cfg: RunConfig
    family: Family
    workdir: Path
    mesh: Mesh
    abstract: TrainState
    put: Callable[[Batch], Batch]
    heldout_batches: Sequence[Batch]
    updates: dict[tuple[str, ...], Callable] = field(default_factory=dict)
    mfu_of: Callable[[float], float] | None = None  # tokens per second to MFU, where the devices' peak is known
    claim: Claim | None = None  # of the first process
    checkpoints: Checkpoints | None = None
    log: MetricsLog | NoLog | None = None
    progress: Progress | None = None
    pending: tuple[int, Any, Any] | None = None  # a step in flight, its metrics, and the vote: fetched a step late
    saved_at: float = 0.0  # time.monotonic() of the last checkpoint, or of the start
    metrics: dict[str, float] = field(default_factory=dict)
    heldout: dict[str, float] = field(default_factory=dict)
    evaluation: Callable | None = None

    def save_is_due(self) -> bool:
        """Whether checkpoint.every_minutes have passed since the last checkpoint."""
        minutes = self.cfg.checkpoint.every_minutes
        return minutes > 0 and time.monotonic() - self.saved_at >= 60.0 * minutes

    def save(self, state: TrainState, scores: dict[str, float]) -> None:
        """Writes a checkpoint, if the workdir is still this run's."""
        if self.claim is not None:
            self.claim.check()
        with self.progress.pause():
            self.checkpoints.save(state, scores)
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


def process_metrics(run: Run) -> int:
    """Fetches the metrics that are pending and deals with them; returns the highest vote: STOP, SAVE or 0.

    Raises:
      TrainingDiverged: where that step was not finite.
    """
    if run.pending is None:
        return 0
    step, metrics, vote = run.pending
    run.pending = None
    loss, nonfinite, vote = jax.device_get((metrics["loss"], metrics["nonfinite"], vote))
    if not nonfinite:
        run.progress.advance(step, float(loss))
    train = run.cfg.train
    if nonfinite or step in (1, train.steps) or step % train.log_every == 0:
        values = {name: float(value) for name, value in jax.device_get(metrics).items() if name != "nonfinite"}
        rate = run.progress.report(step, float(loss))
        run.metrics = values if rate is None else {**values, **run.rates(rate)}
        run.log.write(step, run.metrics)
        if nonfinite:
            raise TrainingDiverged(step, [name for name, value in values.items() if not math.isfinite(value)])
    return int(vote)


def evaluate_heldout(run: Run, state: TrainState, step: int) -> dict[str, float]:
    """Evaluates held-out text after `step` and writes the metrics; returns them without their prefix."""
    if not run.heldout_batches:
        return {}
    with run.progress.pause():
        if run.evaluation is None:
            run.evaluation = eval_step(run.cfg, run.family, run.mesh, run.abstract)
        scores = lambda state: evaluate(run.cfg, run.family, run.evaluation, state, map(run.put, run.heldout_batches))
        run.heldout = scores(state)
        if state.ema:
            averaged = dataclasses.replace(state, params={**state.params, **state.ema})
            run.heldout |= {f"ema/{name}": value for name, value in scores(averaged).items()}
    run.log.write(step, {f"heldout/{name}": value for name, value in run.heldout.items()})
    run.progress.say(f"step {step}  " + "  ".join(f"heldout/{name} {value:.4f}" for name, value in run.heldout.items()))
    return run.heldout


def plot(run: Run) -> None:
    """Draws the metrics so far."""
    if jax.process_index() == 0:
        with run.progress.pause():
            plot_metrics(run.workdir)


def check_best_metric(run: Run) -> None:
    """Raises ConfigError unless held-out evaluation yields checkpoint.best_metric."""
    name = run.cfg.checkpoint.best_metric
    if not name:
        return
    if not run.heldout_batches:
        raise ConfigError(f"checkpoint.best_metric={name!r} needs held-out batches, but train.eval_every=0 reads none")
    known = {*_heldout_names(run), "loss"}
    known |= {f"ema/{one}" for one in known} if run.abstract.ema else set()
    if name not in known:
        raise ConfigError(
            f"checkpoint.best_metric={name!r} is not a held-out metric; those are {', '.join(sorted(known))}"
        )


def _heldout_names(run: Run) -> list[str]:
    run.evaluation = eval_step(run.cfg, run.family, run.mesh, run.abstract)
    batch = run.put(run.heldout_batches[0])
    *_, sums = jax.eval_shape(run.evaluation, run.abstract, batch, jax.ShapeDtypeStruct((), "int32"))
    return list(jax.eval_shape(lambda s: run.family.objective.summarize(run.cfg, s), sums))
