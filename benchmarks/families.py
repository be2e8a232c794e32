"""Cola, AR, LLaDA and Plaid with cores of equal size and equal training FLOPs on the small world: one table.

python -m benchmarks.families [--workdir runs/families] [--seeds 3] [--budget 7e12] [--families cola ar llada plaid]

Configs are experiments/tinyworld_matched.py's. Each family trains for as many steps as spend the same FLOPs by our
exact count (`Family.cost`: forward and backward, nothing of the optimizer), stage 1 of Cola included. Its learning rate
is the best of a third, one and three times tinyworld.py's, and of up to four beyond for as long as the best one is an
end of the grid: one run each at a fifth of the budget, selected by its own held-out loss; the rest of the recipe is
tinyworld.py's, which was tuned for Cola. Then every family and seed is trained and evaluated. After an interruption,
the same command continues. WORKDIR/table.md and families.json are rewritten after every run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import families_table, measure, rate_search
from cola_jax import config, runs
from cola_jax.config import RunConfig
from cola_jax.data import pipeline, tinyworld, tokenizers
from cola_jax.evaluate import benchmark, protocol, stories, text_likelihood, world_tasks
from cola_jax.evaluate.text_likelihood import Pair
from cola_jax.families import FAMILIES
from cola_jax.runs import comparison
from cola_jax.runs.writer import Writer
from cola_jax.scaling.accounting import tokens_of
from cola_jax.train.metrics import read_metrics
from cola_jax.train.resume import check
from cola_jax.train.workdir import TOKENIZER

COMPARED = ("cola", "ar", "llada", "plaid")
CONDITIONAL = ("ar", "llada")  # their likelihood of a text given another is not a difference of bounds
HELDOUT_LOSS = "heldout/loss"  # selects the learning rate
SPEED_ROWS = 64  # prompts continued at once when speed is measured


@dataclass(frozen=True)
class Plan:
    """What is compared, and the size of the evaluation.

    Attributes:
      config: FILE of the configs; see experiments/tinyworld_matched.py for the arguments that it takes.
      families: names of the families to compare.
      seeds: of parameters and noise; one run of every family for each.
      budget: FLOPs of a run. searched: share of it for each run of the learning rate search.
      rates: learning rates that are tried first, over the config's. extensions: how many more may be: `rate_search.search`.
      tasks: built-in ones, "lambada" for tinyworld/lambada. records: number of records of each.
      stories: number of openings and of questions continued. texts: number of texts whose likelihood is estimated.
      repeats: runs of the timed generation.
    """

    config: str = "tinyworld_matched"
    families: tuple[str, ...] = COMPARED
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: float = 7e12
    searched: float = 0.2
    rates: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    extensions: int = 4
    tasks: tuple[str, ...] = tuple(world_tasks.FORMS)
    records: int = 60
    stories: int = 64
    texts: int = 16
    repeats: int = 3


class Shared(NamedTuple):
    """The tokenizer and the rows that all runs share."""

    tokenizer: tokenizers.Tokenizer
    corpus: pipeline.Corpus


def compare(plan: Plan, workdir: Path) -> str:
    """Trains and evaluates everything; returns the table, which is also written to WORKDIR/table.md.

    Raises:
      ConfigError: if the budget is too small for one step. WorkdirError: if `workdir` holds another comparison.
      KeyboardInterrupt: if a signal stopped a run, after its checkpoint.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    facts = {"machine": measure.machine(), "budget": plan.budget, "families": {}}
    text = shared(plan, workdir)
    facts["rates"] = {family: search(plan, family, workdir, text) for family in plan.families}
    rows: list[dict[str, Any]] = []
    for seed in plan.seeds:
        for family in plan.families:
            cfg = configured(plan, family, seed, facts["rates"][family]["chosen"], plan.budget, workdir, text)
            facts["families"][family] = sizes(plan, cfg)
            rows.append({"family": family, "seed": seed} | judged(plan, cfg, workdir / f"{family}-{seed}", text))
            (workdir / "families.json").write_text(json.dumps(facts | {"runs": rows}, indent=2) + "\n")
            (workdir / "table.md").write_text(table := families_table.as_markdown(facts, rows))
    return table


def configured(
    plan: Plan, family: str, seed: int, rate: float, budget: float, workdir: Path, text: Shared
) -> RunConfig:
    """Returns the config of a run that spends `budget` FLOPs; stage 1 of Cola is trained first if it has not been.

    Raises:
      ConfigError: if the budget is too small for one step.
    """
    spent, argument = 0.0, family
    if family == "cola":
        first = stage_1(plan, seed)
        train(first, workdir / f"vae-{seed}", text)
        spent, argument = flops(first), f"cola,{(workdir / f'vae-{seed}').resolve()}"
    tree = config.load(f"{plan.config}:{argument}")
    tree.seed, tree.optimizer.learning_rate = seed, rate
    steps = int((budget - spent) / a_step(config.resolve(tree)))
    if steps <= tree.optimizer.warmup_steps:
        raise config.ConfigError(
            f"{budget:.3g} FLOPs are {max(steps, 0)} steps of {family}, expected more than optimizer.warmup_steps="
            f"{tree.optimizer.warmup_steps}: give a larger --budget"
        )
    return in_steps(tree, steps)


def stage_1(plan: Plan, seed: int) -> RunConfig:
    tree = config.load(f"{plan.config}:vae")
    tree.seed = seed
    return in_steps(tree, tree.train.steps)


def in_steps(tree: Any, steps: int) -> RunConfig:
    """The config for so many steps: the schedule ends with them, and held-out evaluation runs at their end."""
    tree.train.update(steps=steps, eval_every=steps, log_every=max(steps // 20, 1))
    tree.optimizer.decay_steps = max(steps, tree.optimizer.warmup_steps + 1)
    tree.checkpoint.update(every=max(steps // 4, 1), keep_last=1)
    return config.resolve(tree)


def a_step(cfg: RunConfig) -> float:
    """FLOPs of a training step."""
    return FAMILIES[cfg.family].objective.cost(cfg).total * tokens_of(cfg, 1)


def flops(cfg: RunConfig) -> float:
    """FLOPs of a run."""
    return a_step(cfg) * cfg.train.steps


def shared(plan: Plan, workdir: Path) -> Shared:
    """Makes tokenizer and rows, which are the same in every family's config; the tokenizer stays in `workdir`."""
    cfg = stage_1(plan, plan.seeds[0])
    tokenizer = tokenizers.build(cfg, workdir / TOKENIZER)
    return Shared(tokenizer, pipeline.build_corpus(cfg, tokenizer))


def train(cfg: RunConfig, workdir: Path, text: Shared) -> None:
    """Trains a run, or continues it."""
    if not tokenizers.is_saved(workdir / TOKENIZER):
        tokenizers.save(text.tokenizer, workdir / TOKENIZER)
    if runs.run_training(cfg, workdir, corpus=text.corpus).interrupted:
        raise KeyboardInterrupt


def sizes(plan: Plan, cfg: RunConfig) -> dict[str, Any]:
    """Returns the parameters, steps, tokens and FLOPs of the run of a family; those of stage 1 separately."""
    parameters = comparison.parameters(cfg)
    before = flops(stage_1(plan, cfg.seed)) if cfg.family == "cola" else 0.0
    return {
        "parameters": parameters,
        "steps": cfg.train.steps,
        "tokens": tokens_of(cfg, cfg.train.steps),
        "flops_stage_1": before,
        "flops": before + flops(cfg),
    }


def search(plan: Plan, family: str, workdir: Path, text: Shared) -> dict[str, Any]:
    """Returns what `rate_search.search` finds; finished runs are read, and an interrupted run continues."""
    own = config.load(f"{plan.config}:{family}").optimizer.learning_rate

    def loss_of(factor: float) -> float:
        cfg = configured(plan, family, plan.seeds[0], own * factor, plan.searched * plan.budget, workdir, text)
        place = workdir / "search" / f"{family}-{factor:.3g}"
        train(cfg, place, text)
        loss = [line[HELDOUT_LOSS] for line in read_metrics(place) if HELDOUT_LOSS in line][-1]
        print(f"search {family} learning rate {own * factor:.3g}: held-out loss {loss:.4f}", flush=True)
        return loss

    found = rate_search.search(loss_of, own, plan.rates, plan.extensions)
    if found["tried"]:
        place = "inside the rates tried" if found["interior"] else "AT THE END of the rates tried"
        print(f"search {family}: chose learning rate {found['chosen']:.3g}, {place}", flush=True)
    return found


def answer(workdir: Path, tasks: tuple[str, ...], records: int) -> None:
    """Answers built-in tasks with the newest checkpoint, into WORKDIR/evaluation/STEP."""
    request = benchmark.Request(
        workdir=workdir, step=None, tasks=tasks, protocol=None, output=None, limit=records, batch_size=64, context=0,
        seed=0, world_seed=0, shard_parameters=False,
    )  # fmt: skip
    print(benchmark.as_text(benchmark.run(request, {})), flush=True)


def judged(plan: Plan, cfg: RunConfig, workdir: Path, text: Shared) -> dict[str, Any]:
    """Trains a run and evaluates it; existing results are read.

    Returns:
      effort: size of the evaluation. tasks: a row of `harness.evaluate` by task and scorer. told, asked: the
      `stories.story_figures` of openings and of questions. answers: how many different ones were given, and how many
      there are
      among the right ones: a model that ignores its story gives one per kind of question.
      likelihood: of `text_likelihood.summarize`. tokens_per_second: of warm generation.
    """
    path, effort = workdir / "figures.json", {name: getattr(plan, name) for name in ("records", "stories", "texts")}
    check(workdir, cfg, print)
    figures = json.loads(path.read_text()) if path.is_file() else {}
    if "answers" in figures:  # older ones lack it
        if figures["effort"] != effort:
            raise config.ConfigError(f"{path} was made with {figures['effort']}, not {effort}: give those or remove it")
        return figures
    train(cfg, workdir, text)
    answer(workdir, tuple(protocol.BUILT_IN + name for name in plan.tasks), plan.records)
    summary = json.loads((workdir / "evaluation" / str(cfg.train.steps) / "summary.json").read_text())
    writer = Writer.load(workdir)
    told, asked = (stories.continuations(writer, plan.stories, cfg.seed, prompt) for prompt in ("opening", "question"))
    figures = {
        "effort": effort,
        "tasks": [row for row in summary["scores"] if row["task"].startswith(protocol.BUILT_IN)],
        "told": stories.story_figures(told),
        "asked": stories.story_figures(asked),
        "answers": different_answers(cfg, asked),
        "likelihood": likelihood(writer, plan.texts),
        "tokens_per_second": speed(writer, plan.repeats),
    }
    path.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def different_answers(cfg: RunConfig, asked: Sequence[stories.Pair]) -> dict[str, int]:
    """Returns how many different answers were given to the held-out questions, and how many are right ones of some question."""
    right = {tinyworld.answer_of(tinyworld.story(cfg.data.seed, "heldout", number)) for number in range(len(asked))}
    return {"given": len({text.strip() for _, text in asked}), "right": len(right)}


def likelihood(writer: Writer, count: int) -> dict[str, Any]:
    """Returns the log-likelihood of whole held-out stories, their end included.

    AR and LLaDA estimate it after the end of another document, Cola and Plaid without a prompt: a difference of two bounds
    would be no bound.
    """
    cfg, tokenizer = writer.cfg, writer.tokenizer
    before = (tokenizer.eos_id,) if cfg.family in CONDITIONAL else ()
    texts = [tinyworld.story(cfg.data.seed, "heldout", index) for index in range(count)]
    pairs = [Pair(before, (*tokenizer.encode(text), tokenizer.eos_id)) for text in texts]
    rows = text_likelihood.measure(writer, pairs, text_likelihood.settings_of(cfg.family, {}), 0, min(count, 32))
    return text_likelihood.summarize(rows, 0)


def speed(writer: Writer, repeats: int) -> float:
    """Returns new tokens per second of SPEED_ROWS continuations of sampling.max_new_tokens each, compiled beforehand."""
    writer = writer.with_sampling(stop_at_eos=False)
    prompts = stories.heldout_prompts(writer.cfg, SPEED_ROWS)
    seconds = measure.seconds(lambda: len(writer.write(prompts)), repeats)
    return SPEED_ROWS * writer.cfg.sampling.max_new_tokens / seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/families")
    parser.add_argument("--config", default=Plan.config, help="file of the configs")
    parser.add_argument("--families", nargs="+", choices=COMPARED, default=COMPARED)
    parser.add_argument("--seeds", type=int, default=len(Plan.seeds), help="runs of each family")
    parser.add_argument("--budget", type=float, default=Plan.budget, help="training FLOPs of each run")
    parser.add_argument("--records", type=int, default=Plan.records, help="of each built-in task")
    parser.add_argument("--stories", type=int, default=Plan.stories, help="openings and questions continued")
    parser.add_argument("--texts", type=int, default=Plan.texts, help="stories whose likelihood is estimated")
    options = parser.parse_args(arguments)
    plan = Plan(
        config=options.config, families=tuple(options.families), seeds=tuple(range(options.seeds)), budget=options.budget,
        records=options.records, stories=options.stories, texts=options.texts,
    )  # fmt: skip
    workdir = Path(options.workdir)
    jax.config.update("jax_compilation_cache_dir", str((workdir / "compiled").resolve()))  # seeds share programs
    print(compare(plan, workdir))


if __name__ == "__main__":
    main()
