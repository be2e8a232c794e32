"""Quality of generated small-world stories: held-out prompts are continued, and the stories checked.

All batches have one shape, so every setting of the sampler compiles once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from cola_jax.config import ConfigError, RunConfig
from cola_jax.data import tinyworld, tinyworld_check
from cola_jax.evaluate import variety
from cola_jax.runs.writer import Writer

PROMPTS = {"opening": tinyworld.prompt_of, "question": tinyworld.question_prompt}
Pair = tuple[str, str]
Watch = Callable[[int, list[str]], None]


def check_world(cfg: RunConfig) -> None:
    """Raises ConfigError unless the run was trained on stories of the small world and nothing else."""
    kinds = sorted({source.kind for source in cfg.data.sources})
    if kinds != ["tinyworld"]:
        raise ConfigError(
            f"stories are judged for runs on the small world alone; data.sources.kind is {', '.join(kinds) or 'nothing'},"
            " expected tinyworld"
        )


def heldout_prompts(cfg: RunConfig, count: int, prompt: str = "opening") -> list[str]:
    """Returns the prompts of held-out stories 0 .. count - 1.

    Args:
      prompt: "opening", the first one or two sentences; "question", all but the answer.

    Raises:
      ConfigError: for a run that is not of the small world, another `prompt` or a count below 1.
    """
    check_world(cfg)
    if prompt not in PROMPTS:
        raise ConfigError(f"prompt={prompt!r} is not one of {', '.join(PROMPTS)}")
    if count < 1:
        raise ConfigError(f"{count} prompts were requested, expected at least 1")
    return [PROMPTS[prompt](tinyworld.story(cfg.data.seed, "heldout", index)) for index in range(count)]


def continuations(
    writer: Writer,
    count: int,
    seed: int,
    prompt: str = "opening",
    *,
    batch_size: int = 64,
    watch: Watch | None = None,
    **sampling: Any,
) -> list[Pair]:
    """Continues held-out prompts; the text depends on the seed and the prompt's number only.

    Args:
      prompt: see `heldout_prompts`.
      batch_size: rows generated at once; the last batch is padded with prompts whose text is dropped.
      watch: called block by block with the number of a batch's first prompt and the new text of its rows.
      sampling: SamplingConfig fields to change.

    Returns:
      (prompt, continuation) in the order of the held-out stories.

    Raises:
      ConfigError: see `heldout_prompts`; and for an invalid sampling field or value.
    """
    prompts = heldout_prompts(writer.cfg, count, prompt)
    writer = writer.with_sampling(**sampling) if sampling else writer
    written: list[str] = []
    for start in range(0, count, batch_size):
        numbers = [min(start + row, count - 1) for row in range(batch_size)]
        texts = [""] * batch_size
        chosen, room = [prompts[number] for number in numbers], writer.cfg.train.sequence_length
        for pieces in writer.stream_batch(chosen, seed=seed, samples=numbers, prompt_tokens=room):
            texts = [text + piece for text, piece in zip(texts, pieces)]
            if watch is not None:
                watch(start, pieces)
        written += texts[: count - start]
    return list(zip(prompts, written))


def story_figures(pairs: Sequence[Pair], training: frozenset[str] | None = None) -> dict[str, float]:
    """Returns the checker's figures for prompts with their continuations, as shares.

    well_formed: of the sentences that were generated or completed, those of the grammar, an unfinished one counting as
    malformed. entailed, consistent, chance and stories: `tinyworld_check.aggregate` of the whole stories. distinct_2: of the
    pairs of neighbouring words in the continuations, those that differ. copied: stories that are in `training`, if
    given.
    """
    stories = [prompt + continuation for prompt, continuation in pairs]
    figures = tinyworld_check.aggregate(stories)
    whole = [tinyworld_check.check(text) for text in stories]
    given = [tinyworld_check.check(tinyworld_check.finished(prompt)) for prompt, _ in pairs]
    written = sum(a.sentences - b.sentences for a, b in zip(whole, given))
    good = sum(a.well_formed - b.well_formed for a, b in zip(whole, given))
    figures["well_formed"] = good / max(written, 1)
    figures["distinct_2"] = variety.distinct([continuation for _, continuation in pairs], 2)
    if training is not None:
        figures["copied"] = sum(text in training for text in stories) / max(len(stories), 1)
    return figures


def training_stories(cfg: RunConfig) -> frozenset[str]:
    """Returns every story that a run was trained on.

    Raises:
      ConfigError: for a run that is not of the small world.
    """
    check_world(cfg)
    return frozenset(tinyworld.story(cfg.data.seed, "train", i) for i in range(cfg.data.generated_documents))


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of a sweep: guidance scale and solver steps per block."""

    guidance: float
    steps: int


def cross(guidances: Sequence[float], steps: Sequence[int], writer: Writer) -> list[Setting]:
    """Returns the guidance scales at the writer's own steps and the steps at its own guidance, each setting once."""
    own = writer.cfg.sampling
    settings = [Setting(float(guidance), own.steps) for guidance in guidances]
    settings += [Setting(own.guidance, count) for count in steps]
    return sorted(set(settings), key=lambda setting: (setting.guidance, setting.steps))


def sweep(
    writer: Writer,
    settings: Sequence[Setting],
    count: int,
    seed: int,
    prompt: str = "opening",
    *,
    batch_size: int = 64,
) -> list[dict[str, float]]:
    """Returns a row for each setting: guidance, steps, and the `story_figures` of the same prompts and noise.

    Raises:
      ConfigError: see `continuations`.
    """
    rows = []
    for setting in settings:
        changes = dataclasses.asdict(setting)
        pairs = continuations(writer, count, seed, prompt, batch_size=batch_size, **changes)
        rows.append(changes | story_figures(pairs))
    return rows
