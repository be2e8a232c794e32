"""The demo: both stages on the small world, samples, and a report. After an interruption, the same call continues."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from cola_jax import config, runs, storage
from cola_jax.config import ConfigError, RunConfig
from cola_jax.data.tinyworld_check import by_question
from cola_jax.demo import world_report
from cola_jax.demo.world_report import ReportPlan
from cola_jax.errors import Preempted
from cola_jax.evaluate import stories
from cola_jax.evaluate.report import machine, write_report
from cola_jax.runs.writer import Writer
from cola_jax.storage import AnyPath

SET_BY_DEMO = ("family", "objective.vae_from", "train.init_from")
SHOWN = 3  # number of samples printed


@dataclass
class Clock:
    """Prints which part starts, and how long it took."""

    stream: TextIO
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.say(f"== {name}")
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        self.say(f"   {name} took {self.seconds[name]:.1f} s")

    def say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


def demo(
    workdir: str | AnyPath,
    seed: int | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    stream: TextIO | None = None,
    plan: ReportPlan | None = None,
) -> dict[str, Any]:
    """Trains both stages in `workdir`, evaluates the result and writes WORKDIR/report/index.html.

    Finished stages are not trained again; an interrupted run continues. The evaluation always runs again.

    Args:
      seed: of parameters and noise, instead of the config's; the data does not change.
      overrides: ("a.b", "VALUE") assignments to the configs of both stages; a field that one of them does not read
        applies to the other.
      plan: size of the evaluation; `ReportPlan()` by default.

    Returns:
      The figures, as in WORKDIR/report/figures.json; see `evaluate`.

    Raises:
      ConfigError: for an override that does not fit, or sets a field that the demo sets itself. WorkdirError: if
        `workdir` holds a demo with another config. Preempted: if a signal stopped a stage; its checkpoint is written.
    """
    workdir, clock = storage.absolute(storage.path(workdir, "workdir")), Clock(stream or sys.stderr)
    configs = stage_configs(workdir, seed, overrides)
    for number, (stage, cfg) in enumerate(configs.items(), 1):
        with clock.part(f"stage {number} ({stage})"):
            interrupted = runs.run_training(cfg, workdir / stage, clock.stream).interrupted
        if interrupted:
            clock.say("stopped; the same command continues")
            raise Preempted
    return evaluate(workdir, plan or ReportPlan(), clock)


def stage_configs(workdir: AnyPath, seed: int | None, overrides: Sequence[tuple[str, str]]) -> dict[str, RunConfig]:
    """Returns the configs of both stages, by the subfolder of `workdir` of each.

    Raises:
      ConfigError: see `demo`.
    """
    taken = [path for path, _ in overrides if path in SET_BY_DEMO]
    if taken:
        raise ConfigError(f"--config.{taken[0]}: the demo sets this field itself")
    trees = {}
    for stage, spec in {"vae": "tinyworld:vae", "joint": f"tinyworld:joint,{workdir / 'vae'}"}.items():
        trees[stage] = config.load(spec, built_in=True)
        if seed is not None:
            trees[stage].seed = seed
    unread = {stage: config.unread(tree, overrides) for stage, tree in trees.items()}
    configs = {}
    for stage, tree in trees.items():
        others = set().union(*(paths for other, paths in unread.items() if other != stage))
        mine = [(path, value) for path, value in overrides if path not in unread[stage] or path in others]
        configs[stage] = config.resolve(config.override(tree, mine))
        stories.check_world(configs[stage])
    return configs


def evaluate(workdir: AnyPath, plan: ReportPlan, clock: Clock) -> dict[str, Any]:
    """Evaluates the second stage of a demo and writes the report.

    Returns:
      headline and questions: `story_figures` of held-out stories continued from their opening, and of held-out questions
      answered; by_question: the latter by kind; sweep: one row per setting; noise: accuracies by t; trace: a block's text by
      solver step; seconds by part; machine.

    Raises:
      CheckpointError: if the second stage has no checkpoint. ConfigError: if it is not of the small world.
    """
    writer = Writer.load(workdir / "joint")
    stories.check_world(writer.cfg)
    folder, seed, batch = workdir / "report", writer.cfg.seed, plan.batch_size
    with clock.part("held-out stories"):
        free = continue_aloud(writer, plan, clock)
        asked = stories.continuations(writer, plan.headline_prompts, seed, "question", batch_size=batch)
        figures = {
            "headline": stories.story_figures(free, stories.training_stories(writer.cfg)),
            "questions": stories.story_figures(asked),
            "by_question": by_question(prompt + answer for prompt, answer in asked),
        }
    with clock.part("guidance and solver steps"):
        settings = stories.cross(plan.guidances, plan.steps, writer)
        figures["sweep"] = stories.sweep(writer, settings, plan.sweep_prompts, seed, batch_size=batch)
    with clock.part("latents and pictures"):
        drawn = world_report.draw(writer, workdir, folder, figures["sweep"], plan)
    pictures = drawn.pop("pictures")
    figures |= drawn | {"seconds": clock.seconds, "machine": machine()}
    pairs = {"Stories continued from their opening": free, "Questions answered": asked}
    report = world_report.assemble(writer.cfg, workdir, figures, pairs, pictures, plan.shown)
    page = write_report(folder, report, figures)
    for name, value, remark in report.headline:
        clock.say(f"{name}: {value}" + (f" ({remark})" if remark else ""))
    clock.say(f"report: {page}")
    return figures


def continue_aloud(writer: Writer, plan: ReportPlan, clock: Clock) -> list[stories.Pair]:
    """Continues held-out openings; streams the first to stdout and prints a few more."""
    opening = stories.heldout_prompts(writer.cfg, 1)[0]
    print(f"   {opening} |", end="", file=clock.stream, flush=True)

    def watch(first: int, pieces: list[str]) -> None:
        if first == 0:
            print(pieces[0], end="", file=clock.stream, flush=True)

    count, seed = plan.headline_prompts, writer.cfg.seed
    free = stories.continuations(writer, count, seed, batch_size=plan.batch_size, watch=watch)
    clock.say("")
    for prompt, continuation in free[1:SHOWN]:
        clock.say(f"   {prompt} |{continuation}")
    return free
