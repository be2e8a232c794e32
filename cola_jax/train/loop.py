"""The training loop: batches in, checkpoints and metrics out, the same for every family."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import jax
from jax.sharding import Mesh

from cola_jax.config import RunConfig, for_platform
from cola_jax.families.cost import Cost
from cola_jax.families.family import Batch, Family, Tree
from cola_jax.parallel.chips import chip_of
from cola_jax.parallel.hosts import any_process, batch_putter
from cola_jax.parallel.mesh import check_batch, make_mesh
from cola_jax.parallel.rules import describe
from cola_jax.scaling import accounting
from cola_jax.train.checkpoint import Checkpoints, tokenizer_files
from cola_jax.train.interrupt import stop_signals
from cola_jax.train.metrics import MetricsLog, NoLog
from cola_jax.train.progress import Progress
from cola_jax.train.run import Run, absorb, check_best_metric, judge, plot, update_for
from cola_jax.train.state import TrainState, abstract_state, begin, init_state, shardings_of
from cola_jax.train.workdir import check, claim


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


def train(
    cfg: RunConfig,
    workdir: str | Path,
    *,
    make_batches: Callable[[int], Iterable[Batch]],
    heldout_batches: Sequence[Batch],
    family: Family,
    tokenizer: dict[str, bytes] | str | Path | None = None,
    params_init: Tree | None = None,
    updates: Mapping[tuple[str, ...], Callable] | None = None,
    devices: Sequence[jax.Device] | None = None,
    stream: TextIO | None = None,
) -> RunSummary:
    """Trains up to cfg.train.steps, from the newest good checkpoint of `workdir` if it has one.

    SIGTERM and SIGINT end it after the step in flight, with a checkpoint.

    Args:
      make_batches: (updates done) -> the batches from there on, numpy, the rows `hosts.process_rows` names.
      heldout_batches: batches of the same shape for held-out evaluation; may be empty.
      tokenizer: a folder, or {file name: bytes}, that every checkpoint carries.
      params_init: {group: parameters} to start from instead of drawing them; read only where there is no checkpoint.
      updates: {groups: compiled step} of steps of this run, for this mesh, that need not be compiled.
      devices: the devices of the mesh; all of them by default.
      stream: takes progress and warnings; stderr by default.

    Raises:
      MeshError: where devices, batch or a parameter do not fit the mesh.
      WorkdirError: where `workdir` belongs to a run with another config.
      CheckpointError: where the checkpoints do not fit the config or all are damaged.
      TrainingDiverged: where a loss or gradient is not finite.
      ValueError: where batches end early, or checkpoint.best_metric is not a held-out metric.
    """
    workdir, first, stream = Path(workdir), jax.process_index() == 0, stream or sys.stderr
    mesh = make_mesh(cfg.mesh, devices)
    check_batch(cfg.train, mesh)
    given, (cfg, compute) = cfg, for_platform(cfg, mesh.devices.flat[0].platform)
    abstract = abstract_state(cfg, family, mesh)
    check(workdir, given)
    with ExitStack() as stack:
        stop_asked = stack.enter_context(stop_signals())
        say = lambda line: print(line, file=stream, flush=True) if first else None
        say(describe(abstract.params, shardings_of(abstract).params))
        say(compute)
        checkpoints = Checkpoints(workdir, given, tokenizer_files(tokenizer), say)
        stack.callback(checkpoints.close)
        state = checkpoints.restore(abstract)
        start = 0 if state is None else int(state.step)
        if start >= cfg.train.steps:
            say(f"all {cfg.train.steps} steps are already done")
            return RunSummary(start, False, {}, {})
        say(f"resuming after step {start}" if start else f"starting on mesh {dict(mesh.shape)}")
        if state is None:
            state = init_state(cfg, family, abstract, params_init)
        elif state.opt_state is None:
            state = begin(cfg, family, abstract, state.params)
        cost = family.cost(cfg)
        say(accounting.describe(cfg, cost))
        mfu_of = _mfu_of(cost, mesh)
        put = batch_putter(mesh, cfg.train.batch_size)
        log, progress = _writers(cfg, workdir, start, stream if first else None, mfu_of)
        stack.callback(log.close)
        stack.callback(progress.close)
        run = Run(cfg, family, workdir, mesh, abstract, put, heldout_batches, checkpoints, log, progress)
        run.mfu_of, run.updates = mfu_of, dict(updates or {})
        check_best_metric(run)
        if first:
            claim(workdir, given)
        batches = iter(make_batches(start))
        stack.callback(getattr(batches, "close", lambda: None))
        return _loop(run, state, start, batches, stop_asked)


def _mfu_of(cost: Cost, mesh: Mesh) -> Callable[[float], float] | None:
    """Returns tokens a second -> MFU, None where the peak of the mesh's devices is not known."""
    chip = chip_of(mesh.devices.flat[0])
    return None if chip is None else partial(accounting.mfu, cost.useful, peak=chip.flops * mesh.size)


def _writers(
    cfg: RunConfig, workdir: Path, start: int, stream: TextIO | None, mfu_of: Callable[[float], float] | None
) -> tuple[MetricsLog | NoLog, Progress]:
    """Returns the metrics log and the progress; those of processes without a stream write nothing."""
    tokens = cfg.train.batch_size * cfg.train.sequence_length
    log = NoLog() if stream is None else MetricsLog(workdir, start)
    return log, Progress(stream, start, cfg.train.steps, tokens, mfu_of)


def _loop(
    run: Run, state: TrainState, start: int, batches: Iterator[Batch], stop_asked: Callable[[], bool]
) -> RunSummary:
    cfg, agree = run.cfg, any_process(run.mesh)
    for done in range(start + 1, cfg.train.steps + 1):
        update = update_for(run, run.family.trained(cfg, done - 1))
        state, metrics = update(state, run.put(_next(batches, done, cfg)))
        stop = absorb(run)
        vote = agree(stop_asked())  # known at once in a single process; among several, when the step is
        run.pending = (done, metrics, vote)
        stop |= vote is True
        last = done == cfg.train.steps
        save = last or done % cfg.checkpoint.every == 0
        evaluate = cfg.train.eval_every > 0 and (last or done % cfg.train.eval_every == 0)
        scores = {}
        if evaluate or (save and cfg.checkpoint.best_metric):
            stop |= absorb(run)
            scores = judge(run, state, done)
        if save or stop:
            stop |= absorb(run)
            with run.progress.pause():
                run.checkpoints.save(state, scores)
        if last or (cfg.train.plot_every > 0 and done % cfg.train.plot_every == 0):
            plot(run)
        if stop and not last:
            run.progress.say(f"stopped by a signal after step {done}; with a checkpoint")
            return RunSummary(done, True, run.metrics, run.heldout)
    return RunSummary(cfg.train.steps, False, run.metrics, run.heldout)


def _next(batches: Iterator[Batch], done: int, cfg: RunConfig) -> Batch:
    batch = next(batches, None)
    if batch is None:
        raise ValueError(f"the batches ended before step {done}, but train.steps={cfg.train.steps}")
    return batch
