"""Text log-likelihood by a run: log p(answer | prompt) of pairs, in nats per token, as its family estimates it (SPEC 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cola_jax.config import ConfigError
from cola_jax.data.errors import DataError
from cola_jax.data.progress_bar import bar
from cola_jax.evaluate import latents
from cola_jax.evaluate.harness import bucket
from cola_jax.evaluate.records import read_records
from cola_jax.families import FAMILIES
from cola_jax.families.likelihood import MonteCarlo
from cola_jax.families.rows import RowOptions
from cola_jax.runs.writer import Writer
from cola_jax.storage import check_text

RESAMPLES = 1000
DEFAULTS = {"draws": 0, "steps": 32, "solver": "heun", "divergence": "hutchinson", "estimator": "elbo"}


@dataclass(frozen=True)
class Pair:
    """Tokens of a condition, and tokens whose likelihood is estimated."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    where: str = field(default="", compare=False)  # for messages


def settings_of(family: str, given: dict[str, Any]) -> MonteCarlo:
    """Returns the settings with DEFAULTS for what is None.

    Raises:
      ConfigError: for a family without likelihood, and an option that it never reads.
    """
    estimator = FAMILIES[family].likelihood
    if estimator is None:
        raise ConfigError(f"family {family!r} estimates no likelihood of text")
    chosen = {name: value for name, value in given.items() if value is not None}
    unread = sorted(set(chosen) - set(estimator.options))
    if unread:
        raise ConfigError(
            f"{', '.join(unread)}: not read by family {family!r}, which reads {', '.join(estimator.options) or 'none'}"
        )
    return MonteCarlo(**(DEFAULTS | chosen))


def pairs_of_records(writer: Writer, path: str | Path, limit: int | None) -> list[Pair]:
    """Returns the pairs of a JSONL file with `prompt` and `answer`, which is taken as it is: with its own leading space.

    Raises:
      DataError: for a bad record, named by file and line. StorageError: if the file cannot be read.
    """
    pairs = []
    for record in read_records(path)[:limit]:
        if not record.prompt and record.fields:
            raise DataError(f"{record.where}: no prompt, and likelihood reads no {', '.join(record.fields)}")
        pairs.append(pair_of(writer, record.prompt, record.answers[0], record.where))
    return pairs


def pair_of(writer: Writer, prompt: str, answer: str, where: str) -> Pair:
    """Returns a prompt and its answer as tokens.

    Raises:
      DataError: if the tokenizer joins the two, or has no token for the answer; it begins with `where`.
    """
    given, whole = (writer.tokenizer.encode(check_text(text, where)) for text in (prompt, prompt + answer))
    if whole[: len(given)] != given:
        raise DataError(f"{where}: the tokenizer joins prompt and answer; begin the answer with a space")
    if len(whole) == len(given):
        raise DataError(f"{where}: the tokenizer has no token for the answer {answer!r}")
    return Pair(tuple(given), tuple(whole[len(given) :]), where)


def estimate_likelihood(
    writer: Writer, texts: Sequence[tuple[str, str]], *, seed: int = 0, batch_size: int = 32, **settings: Any
) -> list[dict[str, Any]]:
    """Estimates log p(answer | prompt) of (prompt, answer) texts; an answer is taken as it is, with its leading space.

    Args:
      settings: fields of `MonteCarlo` that the family reads: draws, steps, solver, divergence, estimator.

    Returns:
      for each text: tokens and bytes of the answer, log_p in nats, kind (exact, bound, difference), and terms.

    Raises:
      DataError: for a text that cannot be split there. ConfigError: for a family without likelihood, and a setting that it
        does not read. PromptError: for a prompt that the family cannot read.
    """
    pairs = [pair_of(writer, *text, f"text {number}") for number, text in enumerate(texts)]
    return measure(writer, pairs, settings_of(writer.cfg.family, settings), seed, batch_size)


def pairs_of_heldout(writer: Writer, prompt_tokens: int, limit: int) -> list[Pair]:
    """Returns the run's held-out documents (packed rows if documents are joined), each after its first tokens.

    Raises:
      DataError: if nothing is held out, or nothing is longer than `prompt_tokens`.
    """
    cfg = writer.cfg
    pairs: list[Pair] = []
    for batch in latents.heldout_rows(cfg, writer.tokenizer, -(-limit // cfg.train.batch_size)):
        for tokens, segments in zip(np.asarray(batch["tokens"]), np.asarray(batch["segments"])):
            for document in range(1, int(segments.max()) + 1):
                row = tokens[segments == document].tolist()
                if len(row) > prompt_tokens:
                    pairs.append(Pair(tuple(row[:prompt_tokens]), tuple(row[prompt_tokens:])))
    if not pairs:
        raise DataError(f"no held-out document has more than --prompt-tokens {prompt_tokens}")
    return pairs[:limit]


def measure(
    writer: Writer, pairs: Sequence[Pair], settings: MonteCarlo, seed: int, batch_size: int
) -> list[dict[str, Any]]:
    """Returns for each pair: tokens, bytes of the answer's text, log_p in nats, kind, and the terms if there are any.

    Raises:
      PromptError: for a prompt that the family cannot read, before any is measured.
    """
    for number, pair in enumerate(pairs):
        writer.check_row(f"{pair.where or f'text {number}'}: the prompt", pair.prompt)
    rows = dict(bar(_measured(writer, pairs, settings, seed, batch_size), "likelihood", "texts", len(pairs)))
    return [rows[number] for number in range(len(pairs))]


def _measured(
    writer: Writer, pairs: Sequence[Pair], settings: MonteCarlo, seed: int, batch_size: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and the row of every pair, batch by batch, the longest first."""
    groups: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(bucket(len(pair.prompt) + len(pair.answer)), []).append(number)
    likelihood = FAMILIES[writer.cfg.family].likelihood.estimate
    for length, numbers in sorted(groups.items(), reverse=True):
        for start in range(0, len(numbers), batch_size):
            batch = numbers[start : start + batch_size]
            filled = batch + [batch[-1]] * (batch_size - len(batch))  # so that every batch has one shape
            prompts, answers = [pairs[n].prompt for n in filled], [pairs[n].answer for n in filled]
            options = RowOptions(writer.tokenizer.pad_id, seed, filled, length)
            found = likelihood(writer.cfg, writer.params, prompts, answers, options, settings)
            for place, number in enumerate(batch):
                size = len(writer.tokenizer.decode(pairs[number].answer).encode())
                row = {"number": number, "tokens": len(answers[place]), "bytes": size, "kind": found.kind}
                terms = {name: float(values[place]) for name, values in found.terms.items()}
                yield number, row | {"log_p": float(found.log_p[place])} | terms


def summarize(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Returns nats per token with their bootstrap interval over texts, perplexity, bits per byte, and the terms per token."""
    tokens, nats = (np.array([row[name] for row in rows], float) for name in ("tokens", "log_p"))
    drawn = np.random.default_rng(seed).integers(0, len(rows), (RESAMPLES, len(rows)))
    resampled = -nats[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    per_token = float(-nats.sum() / tokens.sum())
    kinds = sorted({row["kind"] for row in rows})
    size = sum(row["bytes"] for row in rows)
    terms = [name for name in rows[0] if name.startswith("log_") and name != "log_p"]
    return {
        "kind": ", ".join(kinds),
        "texts": len(rows),
        "tokens": int(tokens.sum()),
        "nats_per_token": per_token,
        "low": float(low),
        "high": float(high),
        "perplexity": float(np.exp(min(per_token, 700.0))),
        "bits_per_byte": float(-nats.sum() / np.log(2) / size) if size else None,
    } | {f"{name}_per_token": sum(row[name] for row in rows) / float(tokens.sum()) for name in terms}


def as_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Returns one JSON object per line."""
    return "".join(json.dumps(row) + "\n" for row in rows)
