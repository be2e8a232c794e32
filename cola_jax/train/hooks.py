"""Hooks between steps: held-out evaluation, checkpoints, plots. Each runs at its interval of steps, and at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from cola_jax.config import ConfigError
from cola_jax.train.plots import plot_metrics
from cola_jax.train.run import Run, process_metrics
from cola_jax.train.state import TrainState
from cola_jax.train.step import eval_step, evaluate


class Hook(NamedTuple):
    """due: (run, step) -> whether it runs after a step. act: (run, state, step), the state after that step."""

    due: Callable[[Run, int], bool]
    act: Callable[[Run, TrainState, int], None]


def run_hooks(run: Run, state: TrainState, step: int) -> None:
    """Runs those of HOOKS that are due, in their order: a checkpoint contains the scores of its step."""
    for hook in HOOKS:
        if hook.due(run, step):
            hook.act(run, state, step)


def _at(run: Run, step: int, every: int) -> bool:
    return step == run.cfg.train.steps or step % every == 0


def _evaluation_is_due(run: Run, step: int) -> bool:
    cfg = run.cfg
    chooses = bool(cfg.checkpoint.best_metric) and _at(run, step, cfg.checkpoint.every)
    return chooses or (cfg.train.eval_every > 0 and _at(run, step, cfg.train.eval_every))


def evaluate_heldout(run: Run, state: TrainState, step: int) -> None:
    """Evaluates held-out text after `step` and writes the metrics."""
    process_metrics(run)
    if not run.heldout_batches:
        return
    with run.progress.pause(), run.clock.part("evaluation"):
        if run.evaluation is None:
            run.evaluation = eval_step(run.cfg, run.family, run.mesh, run.abstract)
        scores = lambda state: evaluate(run.cfg, run.family, run.evaluation, state, map(run.put, run.heldout_batches))
        run.heldout = scores(state)
        if state.ema:
            averaged = dataclasses.replace(state, params={**state.params, **state.ema})
            run.heldout |= {f"ema/{name}": value for name, value in scores(averaged).items()}
    run.heldout_step = step
    run.log.write(step, {f"heldout/{name}": value for name, value in run.heldout.items()})
    run.progress.say(f"step {step}  " + "  ".join(f"heldout/{name} {value:.4f}" for name, value in run.heldout.items()))


def _checkpoint_is_due(run: Run, step: int) -> bool:
    return run.asked > 0 or _at(run, step, run.cfg.checkpoint.every)


def save(run: Run, state: TrainState, step: int) -> None:
    """Writes a checkpoint, with the scores of this step if it was evaluated."""
    process_metrics(run)
    with run.clock.part("checkpoint"):
        run.save(state, run.heldout if run.heldout_step == step else {})


def _plot_is_due(run: Run, step: int) -> bool:
    every = run.cfg.train.plot_every
    return step == run.cfg.train.steps or (every > 0 and step % every == 0)


def plot(run: Run, state: TrainState, step: int) -> None:
    """Draws the metrics so far."""
    if jax.process_index() == 0:
        with run.progress.pause(), run.clock.part("plots"):
            run.log.flush()
            plot_metrics(run.workdir)


HOOKS = (Hook(_evaluation_is_due, evaluate_heldout), Hook(_checkpoint_is_due, save), Hook(_plot_is_due, plot))


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
