"""The training loop: batches in, checkpoints and metrics out, the same for every family."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import jax
from jax.sharding import Mesh

from cola_jax.config import RunConfig
from cola_jax.families.family import Batch, Family, Tree
from cola_jax.parallel.hosts import any_process, batch_putter
from cola_jax.parallel.mesh import check_batch, make_mesh
from cola_jax.parallel.rules import describe
from cola_jax.train.checkpoint import Checkpoints, tokenizer_files
from cola_jax.train.interrupt import stop_signals
from cola_jax.train.metrics import MetricsLog, NoLog
from cola_jax.train.plots import plot_metrics
from cola_jax.train.progress import Progress
from cola_jax.train.state import TrainState, abstract_state, init_state, shardings_of
from cola_jax.train.step import eval_step, evaluate, train_step
from cola_jax.train.workdir import check, claim


class TrainingDiverged(RuntimeError):
    """A loss or gradient that is not finite.

    Attributes:
      step: the update that was not applied, 1 being the first.
      terms: the names of the metrics that are not finite.
    """

    def __init__(self, step: int, terms: list[str]):
        super().__init__(
            f"training diverged at step {step}: {', '.join(terms)} not finite. The update was not applied, and checkpoints are "
            "of earlier steps. A lower optimizer.learning_rate or clip_norm, or more optimizer.warmup_steps, may help"
        )
        self.step, self.terms = step, terms


@dataclass(frozen=True)
class RunSummary:
    """How a call of `train` ended.

    Attributes:
      step: updates done, in all.
      interrupted: whether a signal ended it before the last step.
      metrics: the last training metrics written.
      heldout: the last held-out metrics.
    """

    step: int
    interrupted: bool
    metrics: dict[str, float]
    heldout: dict[str, float]


@dataclass
class _Run:
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
    updates: dict[tuple[str, ...], Callable] = field(default_factory=dict)
    evaluation: Callable | None = None


def train(
    cfg: RunConfig,
    workdir: str | Path,
    *,
    make_batches: Callable[[int], Iterable[Batch]],
    heldout_batches: Sequence[Batch],
    family: Family,
    tokenizer: dict[str, bytes] | str | Path | None = None,
    params_init: Tree | None = None,
    devices: Sequence[jax.Device] | None = None,
    stream: TextIO = sys.stderr,
) -> RunSummary:
    """Trains up to cfg.train.steps, from the newest good checkpoint of `workdir` if it has one.

    SIGTERM and SIGINT end it after the step in flight, with a checkpoint.

    Args:
      make_batches: (updates done) -> the batches from there on, numpy, the rows `hosts.process_rows` names.
      heldout_batches: batches of the same shape for held-out evaluation; may be empty.
      tokenizer: a folder, or {file name: bytes}, that every checkpoint carries.
      params_init: {group: parameters} to start from instead of drawing them; read only where there is no checkpoint.
      devices: the devices of the mesh; all of them by default.
      stream: takes progress and warnings.

    Raises:
      MeshError: where devices, batch or a parameter do not fit the mesh.
      WorkdirError: where `workdir` belongs to a run with another config.
      CheckpointError: where the checkpoints do not fit the config or all are damaged.
      TrainingDiverged: where a loss or gradient is not finite.
      ValueError: where batches end early, or checkpoint.best_metric is not a held-out metric.
    """
    workdir, first = Path(workdir), jax.process_index() == 0
    mesh = make_mesh(cfg.mesh, devices)
    check_batch(cfg.train, mesh)
    abstract = abstract_state(cfg, family, mesh)
    check(workdir, cfg)
    with ExitStack() as stack:
        stop_asked = stack.enter_context(stop_signals())
        say = lambda line: print(line, file=stream, flush=True) if first else None
        say(describe(abstract.params, shardings_of(abstract).params))
        checkpoints = Checkpoints(workdir, cfg, tokenizer_files(tokenizer), say)
        stack.callback(checkpoints.close)
        state = checkpoints.restore(abstract)
        start = 0 if state is None else int(state.step)
        if start >= cfg.train.steps:
            say(f"all {cfg.train.steps} steps are already done")
            return RunSummary(start, False, {}, {})
        say(f"resuming after step {start}" if start else f"starting on mesh {dict(mesh.shape)}")
        state = init_state(cfg, family, abstract, params_init) if state is None else state
        tokens = cfg.train.batch_size * cfg.train.sequence_length
        log = MetricsLog(workdir, start) if first else NoLog()
        progress = Progress(stream if first else None, start, cfg.train.steps, tokens)
        stack.callback(log.close)
        stack.callback(progress.close)
        put = batch_putter(mesh, cfg.train.batch_size)
        run = _Run(cfg, family, workdir, mesh, abstract, put, heldout_batches, checkpoints, log, progress)
        _check_best_metric(run)
        if first:
            claim(workdir, cfg)
        batches = iter(make_batches(start))
        stack.callback(getattr(batches, "close", lambda: None))
        return _loop(run, state, start, batches, stop_asked)


def _loop(
    run: _Run, state: TrainState, start: int, batches: Iterator[Batch], stop_asked: Callable[[], bool]
) -> RunSummary:
    cfg, agree = run.cfg, any_process(run.mesh)
    for done in range(start + 1, cfg.train.steps + 1):
        update = _update_for(run, run.family.trained(cfg, done - 1))
        state, metrics = update(state, run.put(_next(batches, done, cfg)))
        stop = _absorb(run)
        vote = agree(stop_asked())  # known at once in a single process; among several, when the step is
        run.pending = (done, metrics, vote)
        stop |= vote is True
        last = done == cfg.train.steps
        save = last or done % cfg.checkpoint.every == 0
        judge = cfg.train.eval_every > 0 and (last or done % cfg.train.eval_every == 0)
        scores = {}
        if judge or (save and cfg.checkpoint.best_metric):
            stop |= _absorb(run)
            scores = _evaluate(run, state, done)
        if save or stop:
            stop |= _absorb(run)
            with run.progress.pause():
                run.checkpoints.save(state, scores)
        if last or (cfg.train.plot_every > 0 and done % cfg.train.plot_every == 0):
            _plot(run)
        if stop and not last:
            run.progress.say(f"stopped by a signal after step {done}; the checkpoint is written")
            return RunSummary(done, True, run.metrics, run.heldout)
    return RunSummary(cfg.train.steps, False, run.metrics, run.heldout)


def _next(batches: Iterator[Batch], done: int, cfg: RunConfig) -> Batch:
    batch = next(batches, None)
    if batch is None:
        raise ValueError(f"the batches ended before step {done}, but train.steps={cfg.train.steps}")
    return batch


def _update_for(run: _Run, trained: tuple[str, ...]) -> Callable:
    if trained not in run.updates:
        run.updates[trained] = train_step(run.cfg, run.family, trained, run.mesh, run.abstract)
    return run.updates[trained]


def _absorb(run: _Run) -> bool:
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
        run.metrics = values if rate is None else {**values, "tokens_per_second": rate}
        run.log.write(step, run.metrics)
        if nonfinite:
            raise TrainingDiverged(step, [name for name, value in values.items() if not math.isfinite(value)])
    return bool(stop)


def _evaluate(run: _Run, state: TrainState, step: int) -> dict[str, float]:
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


def _plot(run: _Run) -> None:
    if jax.process_index() == 0:
        with run.progress.pause():
            plot_metrics(run.workdir)


def _check_best_metric(run: _Run) -> None:
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


def _heldout_names(run: _Run) -> list[str]:
    run.evaluation = eval_step(run.cfg, run.family, run.mesh, run.abstract)
    batch = run.put(run.heldout_batches[0])
    _, sums = jax.eval_shape(run.evaluation, run.abstract, batch, jax.ShapeDtypeStruct((), "int32"))
    return list(jax.eval_shape(lambda s: run.family.summarize(run.cfg, s), sums))
