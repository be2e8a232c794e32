"""Tasks on the small world in the formats of the eight benchmarks, drawn from a seed: no downloads, and chance is known.

Each record is a story of the held-out split, up to its answer. A model of the small world has
never seen a list of options, so none is shown: an answer is mapped to the options. Wrong options are other
members of the answer's class that the story mentions, filled up from other stories.

  lambada                the last word of the story
  squad                  the answer, in the words of the story
  mmlu, obqa, race       four options: any question; about things; after a long story
  siqa                   three options: who has or owns something, and what somebody did
  hellaswag, story_cloze the story's end, four and two options; scorer release wants it word for word
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cola_jax.data import tinyworld
from cola_jax.data.errors import DataError
from cola_jax.data.tinyworld_check import StoryReport, check
from cola_jax.data.tokenizers import Tokenizer
from cola_jax.evaluate import stories
from cola_jax.evaluate.protocol import BUILT_IN, Task
from cola_jax.evaluate.records import Record

RECORDS = 500  # of each task, if no limit is given
LONG = 8  # sentences of a long story, question and answer included
PATIENCE = 100  # number of stories tried per record


@dataclass(frozen=True)
class TaskForm:
    """A format: options (0: none are given), rule and paper_rule, and which kinds of question it takes (none: all)."""

    options: int
    rule: str
    paper_rule: str
    kinds: tuple[str, ...] = ()
    sentences: int = 0  # at least
    mentioned: int = 0  # exact number of members of the answer's class in the story; 0: any number


FORMS = {
    "lambada": TaskForm(0, "first_word", "first_word"),
    "mmlu": TaskForm(4, "choice", "choice"),
    "obqa": TaskForm(4, "choice", "choice", ("colour", "where_thing", "inside")),
    "hellaswag": TaskForm(4, "exact", "choice"),
    "race": TaskForm(4, "choice", "choice", sentences=LONG),
    "siqa": TaskForm(3, "choice", "choice", ("who_has", "who_owns", "first_deed", "last_deed")),
    "squad": TaskForm(0, "exact", "exact"),
    "story_cloze": TaskForm(2, "exact", "choice", mentioned=2),
}


def is_built_in(name: str) -> bool:
    """Whether a task is one of the small world's."""
    return name.startswith(BUILT_IN)


def records_of(name: str, seed: int, count: int) -> list[Record]:
    """Returns the first `count` records of a task of the small world, the same for every model.

    Raises:
      DataError: for an unknown name, or if too few stories suit the task.
    """
    form = FORMS.get(name.removeprefix(BUILT_IN))
    if form is None:
        raise DataError(f"task {name!r} is not one of {', '.join(BUILT_IN + known for known in FORMS)}")
    records: list[Record] = []
    seen: dict[str, list[str]] = {}
    stream = len(FORMS) * seed + list(FORMS).index(name.removeprefix(BUILT_IN))  # every task has its own stories
    for index in range(count * PATIENCE):
        story = tinyworld.story(stream, "heldout", index)
        report = check(story)
        known = seen.setdefault(_class(report, story), [])
        known += [phrase for phrase in _phrases(report, story) if phrase not in known]
        if _suits(form, report) and len(known) >= form.options:
            record = _record(name, form, story, report, known, random.Random(f"{name}/{seed}/{index}"))
            records.append(dataclasses.replace(record, where=f"{name}, record {len(records)}"))
        if len(records) == count:
            return records
    raise DataError(f"task {name}: {len(records)} of {count * PATIENCE} stories suit it, {count} records are requested")


def task_of(name: str, records: Sequence[Record], tokenizer: Tokenizer) -> Task:
    """Returns the scoring of a task of the small world; max_new_tokens is that of the longest answer plus 1."""
    form = FORMS[name.removeprefix(BUILT_IN)]
    longest = max(
        len(tokenizer.encode(record.prompt + " " + _ended(record))) - len(tokenizer.encode(record.prompt))
        for record in records
    )
    return Task(name, form.rule, form.paper_rule, 0, (), (), longest + 1, "", ())


def checked(pairs: Sequence[stories.Pair]) -> dict[str, float]:
    """Returns the checker's figures for prompts with their answers, in per cent: well formed sentences, entailed answers."""
    figures = stories.story_figures(pairs)
    return {name: round(100 * figures[name], 4) for name in ("well_formed", "entailed")}


def _ended(record: Record) -> str:
    return f"{record.answers[0]}."


def _suits(form: TaskForm, report: StoryReport) -> bool:
    right_kind = not form.kinds or report.question in form.kinds
    mentioned = not form.mentioned or len(report.choices) == form.mentioned
    return right_kind and mentioned and report.sentences >= form.sentences and report.entailed


def _class(report: StoryReport, story: str) -> str:
    """The kind of the answer, which wrong options must share: the question's kind and the words around the answer."""
    return f"{report.question}/{_form(report, story)}"


def _form(report: StoryReport, story: str) -> str:
    """The answer with a gap in place of the bare answer, e.g. "the {}"."""
    return tinyworld.answer_of(story).rstrip(".").replace(report.given, "{}")


def _phrases(report: StoryReport, story: str) -> list[str]:
    return [_form(report, story).replace("{}", choice) for choice in report.choices]


def _record(
    name: str, form: TaskForm, story: str, report: StoryReport, known: Sequence[str], rng: random.Random
) -> Record:
    """Makes a record; `known` are phrases of the answer's class in this story and in earlier ones."""
    right, prompt = tinyworld.answer_of(story).rstrip("."), tinyworld.question_prompt(story)
    if name.endswith("/lambada"):
        *before, last = right.split()
        return Record("", 0, {}, " ".join([prompt, *before]), (), (last,), report.chance)
    if not form.options:
        return Record("", 0, {}, prompt, (), (right,), report.chance)
    own = [phrase for phrase in _phrases(report, story) if phrase != right]
    rng.shuffle(own)
    others = [phrase for phrase in known if phrase != right and phrase not in own]
    rng.shuffle(others)
    choices = [right, *[*own, *others][: form.options - 1]]
    rng.shuffle(choices)
    return Record("", 0, {}, prompt, tuple(choices), (right,))
