"""What the loop does with a step: its metrics fetched a step late, held-out evaluation, pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cola_jax.config import RunConfig
from cola_jax.errors import UserError
from cola_jax.families.family import Batch, Family
from cola_jax.train.checkpoint import Checkpoints
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


@dataclass
class Run:
    """What the loop works with, and what it has learnt so far."""

    cfg: RunConfig
    family: Family
    workdir: Path
    mesh: Mesh
    abstract: TrainState
    put: Callable[[Batch], Batch]
    heldout_batches: Sequence[Batch]
    checkpoints: Checkpoints
    log: MetricsLog | NoLog
    progress: Progress
    pending: tuple[int, Any, Any] | None = (
        None  # a step in flight, its metrics, and the vote to stop: fetched a step late
    )
    metrics: dict[str, float] = field(default_factory=dict)
    heldout: dict[str, float] = field(default_factory=dict)
    mfu_of: Callable[[float], float] | None = None  # tokens a second to MFU, where the devices' peak is known
    updates: dict[tuple[str, ...], Callable] = field(default_factory=dict)
    evaluation: Callable | None = None

    def rates(self, tokens_per_second: float) -> dict[str, float]:
        """The metrics of speed."""
        found = {"tokens_per_second": tokens_per_second}
        return found if self.mfu_of is None else {**found, "mfu": self.mfu_of(tokens_per_second)}


def update_for(run: Run, trained: tuple[str, ...]) -> Callable:
    """Returns the compiled step that trains these groups."""
    if trained not in run.updates:
        run.updates[trained] = train_step(run.cfg, run.family, trained, run.mesh, run.abstract)
    return run.updates[trained]


def absorb(run: Run) -> bool:
    """Fetches the metrics that are pending and deals with them; returns whether some process has been asked to stop.

    Raises:
      TrainingDiverged: where that step was not finite.
    """
    if run.pending is None:
        return False
    step, metrics, stop = run.pending
    run.pending = None
    loss, nonfinite, stop = jax.device_get((metrics["loss"], metrics["nonfinite"], stop))
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
    return bool(stop)


def judge(run: Run, state: TrainState, step: int) -> dict[str, float]:
    """Evaluates held-out text after `step` and writes the metrics; returns them without their prefix."""
    if not run.heldout_batches:
        return {}
    with run.progress.pause():
        if run.evaluation is None:
            run.evaluation = eval_step(run.cfg, run.family, run.mesh, run.abstract)
        batches = map(run.put, run.heldout_batches)
        run.heldout = evaluate(run.cfg, run.family, run.evaluation, state, batches)
    run.log.write(step, {f"heldout/{name}": value for name, value in run.heldout.items()})
    run.progress.say(f"step {step}  " + "  ".join(f"heldout/{name} {value:.4f}" for name, value in run.heldout.items()))
    return run.heldout


def plot(run: Run) -> None:
    """Draws the metrics so far."""
    if jax.process_index() == 0:
        with run.progress.pause():
            plot_metrics(run.workdir)


def check_best_metric(run: Run) -> None:
    """Raises ValueError unless held-out evaluation yields checkpoint.best_metric."""
    name = run.cfg.checkpoint.best_metric
    if not name:
        return
    if not run.heldout_batches:
        raise ValueError(f"checkpoint.best_metric={name!r} needs held-out batches, got none")
    known = {*_heldout_names(run), "loss"}
    if name not in known:
        raise ValueError(
            f"checkpoint.best_metric={name!r} is not a held-out metric; those are {', '.join(sorted(known))}"
        )


def _heldout_names(run: Run) -> list[str]:
    run.evaluation = eval_step(run.cfg, run.family, run.mesh, run.abstract)
    batch = run.put(run.heldout_batches[0])
    *_, sums = jax.eval_shape(run.evaluation, run.abstract, batch, jax.ShapeDtypeStruct((), "int32"))
    return list(jax.eval_shape(lambda s: run.family.summarize(run.cfg, s), sums))
