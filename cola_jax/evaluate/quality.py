"""Quality of free text without a right answer: diversity, repetition, and likelihood under an autoregressive judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cola_jax import storage
from cola_jax.config import ConfigError
from cola_jax.data.errors import DataError
from cola_jax.evaluate import stories, text_likelihood, variety
from cola_jax.evaluate.records import json_lines
from cola_jax.evaluate.text_likelihood import Pair
from cola_jax.families import FAMILIES
from cola_jax.runs.writer import Writer
from cola_jax.storage import AnyPath

ORDERS = (1, 2, 3, 4)  # n of distinct-n
REPEATED = 4  # n of self-repetition


@dataclass(frozen=True)
class Written:
    """A prompt, possibly empty, and the text generated after it."""

    prompt: str
    text: str


def read(path: str | AnyPath) -> list[Written]:
    """Reads JSONL with `prompt` and `continuation`, as `cola-jax generate` writes it, or `generate`, as `evaluate` does.

    Raises:
      DataError: naming the first bad record by file and line, and if no text has a character.
      StorageError: if the file cannot be read.
    """
    found = []
    for number, tree in json_lines(storage.path(path)):
        fields = tree if isinstance(tree, dict) else {}
        text, prompt = fields.get("continuation", fields.get("generate")), fields.get("prompt", "")
        if not isinstance(text, str) or not isinstance(prompt, str):
            raise DataError(
                f"{path}, line {number}: a record needs a text continuation (or generate), and prompt a text"
            )
        found.append(Written(prompt, text))
    if not found:
        raise DataError(f"{path} holds no records")
    if not any(one.text.strip() for one in found):
        raise DataError(f"{path}: every text is empty, there is nothing to measure")
    return found


def figures(written: Sequence[Written], checker: bool) -> dict[str, float]:
    """Returns texts, empty ones, words per text, distinct_n, self_repetition, and on request the world checker's figures."""
    texts = [one.text for one in written]
    measured: dict[str, float] = {"texts": len(texts), "empty": sum(not text.strip() for text in texts)}
    measured["words_per_text"] = sum(len(text.split()) for text in texts) / len(texts)
    measured |= {f"distinct_{n}": variety.distinct(texts, n) for n in ORDERS}
    measured[f"self_repetition_{REPEATED}"] = variety.self_repetition(texts, REPEATED)
    if checker:
        found = stories.story_figures([(one.prompt, one.text) for one in written])
        measured |= {name: found[name] for name in ("well_formed", "entailed", "consistent", "chance")}
    return measured


def generative_perplexity(judge: Writer, written: Sequence[Written], batch_size: int) -> dict[str, Any]:
    """Returns nats per token of the judge's tokenizer with its interval, and perplexity, of the texts after their prompts.

    Without a prompt, an end-of-document token precedes the text. Empty texts have no likelihood and are left out.

    Raises:
      ConfigError: if the judge is not autoregressive. DataError: if every text is empty.
    """
    estimator = FAMILIES[judge.cfg.family].likelihood
    if estimator is None or not estimator.exact:
        raise ConfigError(
            f"--judge is a run of family {judge.cfg.family!r}: generative perplexity needs an exact judge, 'ar'"
        )
    pairs = []
    for one in written:
        prompt, whole = (judge.tokenizer.encode(text) for text in (one.prompt, one.prompt + one.text))
        shared = next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), min(len(prompt), len(whole)))
        before, answer = whole[:shared] or [judge.tokenizer.eos_id], whole[shared:]  # a token may span the boundary
        if answer:
            pairs.append(Pair(tuple(before), tuple(answer)))
    if not pairs:
        raise DataError("every text is empty: there is nothing to judge")
    rows = text_likelihood.measure(judge, pairs, text_likelihood.settings_of(judge.cfg.family, {}), 0, batch_size)
    measured = text_likelihood.summarize(rows, 0)
    names = ("tokens", "nats_per_token", "low", "high", "perplexity")
    return {f"generative_{name}": measured[name] for name in names}
