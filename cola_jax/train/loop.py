"""The training loop: batches in, checkpoints and metrics out, the same for every family."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TextIO

import jax
from jax.sharding import Mesh

from cola_jax import storage
from cola_jax.config import ConfigError, RunConfig, for_platform, profiled_steps
from cola_jax.families.cost import Cost
from cola_jax.families.family import Batch, Family, Tree
from cola_jax.parallel.chips import chip_of
from cola_jax.parallel.hosts import batch_putter, highest_vote
from cola_jax.parallel.mesh import check_batch, check_model, make_mesh
from cola_jax.parallel.rules import describe
from cola_jax.scaling import accounting
from cola_jax.storage import AnyPath
from cola_jax.train import goodput
from cola_jax.train.checkpoint import Checkpoints, load_state
from cola_jax.train.claim import ClaimLost, claimed
from cola_jax.train.hooks import check_best_metric, run_hooks
from cola_jax.train.interrupt import stop_signals
from cola_jax.train.metrics import MetricsLog, NoLog, read_metrics
from cola_jax.train.profile import Profile
from cola_jax.train.progress import Progress
from cola_jax.train.resume import check
from cola_jax.train.run import LOST, SAVE, STOP, Run, process_metrics, update_for
from cola_jax.train.state import TrainState, abstract_state, complete, init_state, shardings_of
from cola_jax.train.workdir import write_config


@dataclass(frozen=True)
class RunSummary:
    """The result of a call of `train`.

    Attributes:
      step: total number of updates done.
      interrupted: whether a signal ended it before the last step.
      metrics: the last training metrics written.
      heldout: the last held-out metrics.
    """

    step: int
    interrupted: bool
    metrics: dict[str, float]
    heldout: dict[str, float]


@dataclass(frozen=True)
class Continued:
    """A checkpoint of another run that a run continues from: with its step, data position and optimizer state.

    Attributes:
      workdir: of that run. step: see `checkpoint.load_params`.
    """

    workdir: AnyPath
    step: int | str | None = None


def train(
    cfg: RunConfig,
    workdir: str | AnyPath,
    *,
    make_batches: Callable[[int], Iterable[Batch]],
    heldout_batches: Sequence[Batch],
    family: Family,
    tokenizer: dict[str, bytes] | None = None,
    params_init: Tree | None = None,
    continued: Continued | None = None,
    updates: Mapping[tuple[str, ...], Callable] | None = None,
    clock: goodput.Clock | None = None,
    on_begin: Callable[[], None] = lambda: None,
    devices: Sequence[jax.Device] | None = None,
    stream: TextIO | None = None,
) -> RunSummary:
    """Trains up to cfg.train.steps, from the newest good checkpoint of `workdir` if it has one.

    SIGTERM and SIGINT end it after the step in flight, with a checkpoint. Nothing is written before every check has passed.

    Args:
      make_batches: (updates done) -> the batches from there on, numpy, with the rows of `hosts.process_rows`.
      heldout_batches: batches of the same shape for held-out evaluation; may be empty.
      tokenizer: {file name: bytes}, stored in every checkpoint.
      params_init: {group: parameters} to start from instead of drawing them; read only if there is no checkpoint.
      continued: a checkpoint to continue from, instead of params_init; read only if there is no checkpoint.
      updates: {groups: compiled step} of steps of this run, for this mesh, that are compiled already.
      clock: of `goodput.running`, with the time before this call; a new one by default.
      on_begin: called by the first process when all checks have passed, to write other files of the workdir.
      devices: the devices of the mesh; all of them by default.
      stream: for progress and warnings; stderr by default.

    Raises:
      MeshError: if devices, batch or a parameter do not fit the mesh.
      WorkdirError: if `workdir` belongs to a run with another config, or another run is using it.
      CheckpointError: if the checkpoints do not fit the config or all are damaged, or the first cannot be read back.
      TrainingDiverged: if a loss or gradient is not finite. ClaimLost: if another run takes the workdir over.
      ConfigError: if checkpoint.best_metric is not a held-out metric, or batches end early.
    """
    workdir, first, stream = storage.path(workdir), jax.process_index() == 0, stream or sys.stderr
    say = lambda line: print(line, file=stream, flush=True) if first else None
    mesh = make_mesh(cfg.mesh, devices)
    check_batch(cfg.train, mesh)
    given, (cfg, compute) = cfg, for_platform(cfg, mesh.devices.flat[0].platform)
    check_model(cfg, mesh)
    abstract = abstract_state(cfg, family, mesh)
    check(workdir, given, say)
    put, cost = batch_putter(mesh, cfg.train.batch_size), family.objective.cost(cfg)
    run = Run(cfg, family, workdir, mesh, abstract, put, heldout_batches, dict(updates or {}), _mfu_of(cost, mesh))
    check_best_metric(run)
    with ExitStack() as stack:
        run.clock = clock or stack.enter_context(goodput.running())
        stop_asked = stack.enter_context(stop_signals())
        say(describe(abstract.params, shardings_of(abstract).params))
        say(compute)
        run.claim, attempt = stack.enter_context(claimed(workdir, say))
        run.checkpoints = Checkpoints(workdir, given, tokenizer or {}, say, attempt)
        stack.callback(run.checkpoints.close)
        with run.clock.part("restore"):
            state = _first_state(run, params_init, continued, say)
            run.start = run.fetched = start = int(state.step)
        if start >= cfg.train.steps:
            say(f"all {cfg.train.steps} steps are already done")
            return RunSummary(start, False, {}, {})
        say(accounting.describe(cfg, cost))
        if first:
            on_begin()
            write_config(workdir, given)
        run.log, run.progress = _writers(run, start, stream if first else None)
        stack.callback(run.log.close)
        stack.callback(run.progress.close)
        stack.callback(_account, run, attempt)
        profile = Profile(profiled_steps(cfg.train.profile), workdir / "profile", start, run.progress, run.clock)
        stack.callback(profile.close)
        with run.clock.part("data_wait"):
            batches = iter(make_batches(start))
        stack.callback(getattr(batches, "close", lambda: None))
        with run.clock.part("step"):
            return _loop(run, state, batches, stop_asked, profile)


def _first_state(
    run: Run, params_init: Tree | None, continued: Continued | None, say: Callable[[str], None]
) -> TrainState:
    """Returns the state that training starts from: of the workdir's checkpoint, of another run's, or a new one."""
    cfg, family, abstract = run.cfg, run.family, run.abstract
    found = run.checkpoints.restore(abstract)
    if found is not None:
        run.skipped = run.checkpoints.skipped(found[0])
    if found is None and continued is not None:
        found = load_state(continued.workdir, continued.step, abstract, say)
        say(f"continuing from step {found[0]} of {continued.workdir}, with its optimizer state")
    elif found is not None and found[0]:
        say(f"resuming after step {found[0]}")
    else:
        say(f"starting on mesh {dict(run.mesh.shape)}")
    if found is None:
        return init_state(cfg, family, abstract, params_init)
    return complete(cfg, family, abstract, *found)


def _mfu_of(cost: Cost, mesh: Mesh) -> Callable[[float], float] | None:
    """Returns tokens per second -> MFU, None if the peak of the mesh's devices is not known."""
    chip = chip_of(mesh.devices.flat[0])
    return None if chip is None else partial(accounting.mfu, cost.useful, peak=chip.flops * mesh.size)


def _writers(run: Run, start: int, stream: TextIO | None) -> tuple[MetricsLog | NoLog, Progress]:
    """Returns the metrics log and the progress; those of processes without a stream write nothing."""
    cfg = run.cfg
    tokens = cfg.train.batch_size * cfg.train.sequence_length
    progress = Progress(stream, start, cfg.train.steps, tokens, run.mfu_of)
    if stream is None:
        return NoLog(), progress
    lines = read_metrics(run.workdir)
    claims = run.claim.earlier(goodput.accounted(lines))
    killed = goodput.line_of_killed(lines, claims, run.claim.attempt, start, tokens)
    run.claim.span = (start, start)
    log = MetricsLog(run.workdir, start, run.claim.check, [killed] if killed else [])
    run.earlier = read_metrics(run.workdir)
    return log, progress


def _account(run: Run, attempt: int) -> None:
    """Waits for the last checkpoint; writes and prints where the time of this start went."""
    try:
        with run.clock.part("checkpoint"):
            run.checkpoints.close()
    finally:
        line = goodput.line_of(run.clock, run.earlier, attempt, run.start, run.fetched)
        if not run.lost():
            run.log.write(run.fetched, line)
        run.progress.say(goodput.describe(line))


def _loop(
    run: Run, state: TrainState, batches: Iterator[Batch], stop_asked: Callable[[], bool], profile: Profile
) -> RunSummary:
    cfg, agree = run.cfg, highest_vote(run.mesh)
    run.saved_at = time.monotonic()
    for done in range(run.start + 1, cfg.train.steps + 1):
        update = update_for(run, run.family.training(cfg, done - 1).groups)
        with run.clock.part("data_wait"):
            batch = _next(batches, done, cfg)
        profile.before(done, state)
        state, metrics = update(state, run.put(batch))
        profile.after(done, state)
        run.asked = 0
        process_metrics(run)  # of the previous step, while the devices compute this one
        vote = agree(LOST if run.lost() else STOP if stop_asked() else SAVE if run.save_is_due() else 0)
        run.pending = (done, metrics, vote)
        if isinstance(vote, int):  # known at once in a single process; among several, when the step is done
            run.asked = max(run.asked, vote)
        if run.asked == LOST:
            if run.claim is not None:
                run.claim.check()  # which says who, or that the workdir is gone
            raise ClaimLost(f"{run.workdir} was taken over by another run; this one stops after step {done}")
        run_hooks(run, state, done)
        if run.asked == STOP and done < cfg.train.steps:
            run.progress.say(f"stopped by a signal after step {done}; with a checkpoint")
            return RunSummary(done, True, run.metrics, run.heldout)
    return RunSummary(cfg.train.steps, False, run.metrics, run.heldout)


def _next(batches: Iterator[Batch], done: int, cfg: RunConfig) -> Batch:
    batch = next(batches, None)
    if batch is None:
        raise ConfigError(f"the batches ended before step {done}, but train.steps={cfg.train.steps}")
    return batch
