"""Right or wrong: the rules of the tasks under both scorers, and accuracies with their intervals.

`release` is how the published numbers were scored (SPEC 7). `paper` maps what was generated to the choice that matches best, as
the paper's text says (BASELINES 6); records without choices are judged alike by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cola_jax.data.errors import DataError
from cola_jax.evaluate import answers
from cola_jax.evaluate.records import Generation, Record

RULES = ("first_word", "exact", "choice", "auto")  # auto: choice where a record has choices, else exact
SCORERS = ("release", "paper")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Score:
    """An accuracy.

    Attributes:
      records: how many were judged.
      right: how many of them are right.
      low, high: the middle 95 % of the accuracies of bootstrap resamples.
      chance: mean of 1 / choices, or what a record says its chance is; nan where some record has neither.
    """

    records: int
    right: int
    low: float
    high: float
    chance: float

    @property
    def accuracy(self) -> float:
        return self.right / self.records


def is_right(generation: Generation, rule: str, scorer: str) -> bool:
    """Returns whether what was generated answers the record; of several right answers one is enough.

    Raises:
      DataError: where the rule needs choices and the record has none.
    """
    record, written = generation.record, answers.cut(generation.text)
    if rule == "first_word":
        return any(answers.first_word(written) == answers.first_word(answer) for answer in record.answers)
    if any(answers.normalized(written) == answers.normalized(answer) for answer in record.answers):
        return True
    if rule == "exact" or (rule == "auto" and not record.choices):
        return False
    if not record.choices:
        raise DataError(f"{record.where}: no choices, which the rule {rule!r} needs")
    found = chosen(written, record, scorer)
    return found is not None and found in {answers.choice_of(answer, record.choices) for answer in record.answers}


def chosen(written: str, record: Record, scorer: str) -> int | None:
    """Returns the choice that a text means; scorer paper takes the most similar one where `release` finds none."""
    found = answers.choice_of(written, record.choices)
    return found if found is not None or scorer == "release" else answers.most_similar(written, record.choices, 0.0)


def score(right: Sequence[bool], records: Sequence[Record], seed: int = 0) -> Score:
    """Adds verdicts up. The interval is a percentile bootstrap of RESAMPLES resamples, drawn from `seed`."""
    count, hits = len(right), int(sum(right))
    # The number of right ones in a resample of n verdicts is binomial: no resample need be drawn one by one.
    resampled = np.random.default_rng(seed).binomial(count, hits / count, RESAMPLES) / count
    low, high = np.quantile(resampled, [0.025, 0.975])
    known = [1 / len(record.choices) if record.choices else record.chance for record in records]
    chances = [np.nan if chance is None else chance for chance in known]
    return Score(count, hits, float(low), float(high), float(np.mean(chances)))
