"""Right or wrong: the rules of the tasks under both scorers, and accuracies with their intervals.

`release` is how the published numbers were scored (SPEC 7). `paper` maps the generated text to the choice that matches
best, as the paper describes (BASELINES 6), and keeps signs, points and combining marks; so does `release` for tasks
that are not among the published ones. Records that a scorer cannot judge are refused by `problem`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cola_jax.data.errors import DataError
from cola_jax.evaluate import answers
from cola_jax.evaluate.normal_forms import NormalForm, as_written, published, signed, signed_form
from cola_jax.evaluate.records import Generation, Record, listed

RULES = ("first_word", "exact", "choice", "auto")  # auto: choice if a record has choices, else exact
SCORERS = ("release", "paper")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Score:
    """An accuracy.

    Attributes:
      records: how many were judged.
      right: how many of them are right.
      low, high: the middle 95 % of the accuracies of bootstrap resamples.
      chance: mean of 1 / choices, or the chance given by a record; nan if some record has neither.
    """

    records: int
    right: int
    low: float
    high: float
    chance: float

    @property
    def accuracy(self) -> float:
        return self.right / self.records


def is_right(generation: Generation, rule: str, scorer: str, signs: bool = False) -> bool:
    """Returns whether the generated text answers the record; one of several right answers is enough.

    Args:
      signs: whether scorer release keeps signs too, see `normal_forms`.

    Raises:
      DataError: if the rule needs choices and the record has none.
    """
    record, written = generation.record, answers.cut(generation.text)
    normal = form_of(record, scorer, signs)
    if rule == "first_word":
        words = {answers.first_word(answer, normal) for answer in record.answers}
        return answers.first_word(written, normal) in words - {""}
    if normal(written) in {normal(answer) for answer in record.answers} - {""}:
        return True
    right = gold(record, normal)
    if rule == "exact" or (rule == "auto" and not record.choices):
        return normal(written) in {normal(record.choices[index]) for index in right} - {""}
    if not record.choices:
        raise DataError(f"{record.where}: no choices, which the rule {rule!r} needs")
    found = chosen(written, record, scorer, normal)
    return found is not None and found in right


def form_of(record: Record, scorer: str, signs: bool) -> NormalForm:
    """Returns the normal form in which a record's texts are compared."""
    if scorer == "release" and not signs:
        return published
    return signed_form(record.choices) if record.choices else signed


def gold(record: Record, normal: NormalForm) -> set[int]:
    """Returns the choices that are right."""
    if not record.choices:
        return set()
    return {answers.choice_of(answer, record.choices, normal) for answer in record.answers} - {None}


def chosen(written: str, record: Record, scorer: str, normal: NormalForm) -> int | None:
    """Returns the choice that a text means; scorer paper takes the most similar one if `release` finds none."""
    found = answers.choice_of(written, record.choices, normal)
    if found is not None or scorer == "release":
        return found
    return answers.most_similar(written, record.choices, 0.0, normal)


def problem(record: Record, rule: str, scorer: str, signs: bool) -> str:
    """Returns why a scorer cannot judge a record; "" if it can.

    Choices that are equal under the published normal form are allowed: the published numbers were scored with some.
    """
    normal = form_of(record, scorer, signs)
    empty = [answer for answer in record.answers if not normal(answer)]
    if empty:
        drops = ", which drops all but letters and digits (scorer paper and tasks of other names keep signs)"
        return f"answer {empty[0]!r} is empty under scorer {scorer}{drops if normal is published else ''}"
    if not record.choices:
        return f"no choices, which the rule {rule!r} needs" if rule == "choice" else ""
    if signs and len(set(map(as_written, record.choices))) < len(record.choices):
        twice = next(c for i, c in enumerate(record.choices) if as_written(c) in map(as_written, record.choices[:i]))
        return f"choice {twice!r} is given twice: no scorer can distinguish the two"
    outside = [a for a in record.answers if answers.choice_of(a, record.choices, normal) is None]
    if outside and rule != "first_word":
        return (
            f"answer {outside[0]!r} is none of its choices {', '.join(map(repr, record.choices))} under scorer {scorer}"
        )
    return ""


def check(records: Sequence[Record], rules: dict[str, str], signs: bool) -> None:
    """Checks that every scorer can judge every record.

    Args:
      rules: {scorer: rule}.

    Raises:
      DataError: naming the records that one of them cannot judge, by file and line.
    """
    problems = []
    for record in records:
        found = [text for scorer, rule in rules.items() if (text := problem(record, rule, scorer, signs))]
        problems += [f"{record.where}: {found[0]}"] if found else []
    if problems:
        raise DataError(listed(problems))


def score(right: Sequence[bool], records: Sequence[Record], seed: int = 0) -> Score:
    """Adds verdicts up. The interval is a percentile bootstrap of RESAMPLES resamples, drawn from `seed`."""
    count, hits = len(right), int(sum(right))
    # The number of right verdicts in a resample of n is binomial, so it is drawn directly.
    resampled = np.random.default_rng(seed).binomial(count, hits / count, RESAMPLES) / count
    low, high = np.quantile(resampled, [0.025, 0.975])
    known = [1 / len(record.choices) if record.choices else record.chance for record in records]
    chances = [np.nan if chance is None else chance for chance in known]
    return Score(count, hits, float(low), float(high), float(np.mean(chances)))
