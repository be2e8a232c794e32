"""Parses stories of the small world from their text alone: is every sentence grammatical, and is the answer right?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from cola_jax.data.tinyworld_grammar import parse, parse_answer, parse_question
from cola_jax.data.tinyworld_state import ANSWER_CLASS, Event, Question, World, answer, apply, candidates, possible


@dataclass(frozen=True)
class StoryReport:
    """The result of checking a text as a story.

    Attributes:
      sentences: how many, question and answer included; an unfinished last one counts.
      well_formed: how many of them are in the grammar.
      impossible: events that contradict earlier events (they are applied to the state nevertheless).
      question: kind of the question; "" if there is none.
      expected: the answer that the events entail, e.g. "kitchen"; "" if they do not determine it.
      given: the answer that the text gives; "" if it gives none of the right form.
      choices: members of the answer's class that the story mentions.
    """

    sentences: int
    well_formed: int
    impossible: int
    question: str
    expected: str
    given: str
    choices: tuple[str, ...]

    @property
    def entailed(self) -> bool:
        """Whether the answer given is the one that the events entail."""
        return bool(self.expected) and self.given == self.expected

    @property
    def consistent(self) -> bool:
        """Whether every sentence is well formed and no event is impossible."""
        return 0 < self.sentences == self.well_formed and not self.impossible

    @property
    def chance(self) -> float:
        """Probability that a guess among `choices` is right; 0 if there are none."""
        return 1 / len(self.choices) if self.choices else 0.0


def sentences_of(text: str) -> list[str]:
    """Returns the sentences with their closing . ? or :, in order; text after the last of them is one more."""
    return [piece.strip() for piece in re.findall(r"[^.?:]*[.?:]|[^.?:]+$", text) if piece.strip()]


def finished(text: str) -> str:
    """Returns the text up to its last . ? or :, without the incomplete sentence after it."""
    return re.sub(r"[^.?:]+$", "", text)


def check(text: str) -> StoryReport:
    """Parses `text` as a story; see StoryReport. The first question counts; events after it are ignored.

    Never raises, for any text.
    """
    world, last_subject, impossible, good = World(), "", 0, 0
    question: Question | None = None
    given = ""
    pieces = sentences_of(text)
    answering = False
    for piece in pieces:
        body, end = piece[:-1], piece[-1]
        if answering:
            bare = parse_answer(body, ANSWER_CLASS[question.kind]) if end == "." else None
            given, good, answering = given or bare or "", good + bool(bare), False
        elif end == ":":
            answering = body == "Answer" and question is not None
            good += answering
        elif end == "?":
            found = parse_question(body)
            question, good = question or found, good + bool(found)
        elif end == "." and (parsed := parse(body, last_subject)):
            events, last_subject = parsed
            good += 1
            for event in events if question is None else ():
                impossible += "" in event.people or not _agrees(world, event)
                if "" not in event.people:
                    apply(world, event)
    expected = (answer(world, question) or "") if question else ""
    choices = candidates(world, question) if question else ()
    return StoryReport(len(pieces), good, impossible, question.kind if question else "", expected, given, choices)


def _agrees(world: World, event: Event) -> bool:
    known = world.colour.get(event.thing, event.colour)
    return possible(world, event) and (event.kind == "paint" or not event.colour or event.colour == known)


def aggregate(texts: Iterable[str]) -> dict[str, float]:
    """Returns shares over many stories.

    well_formed: grammatical sentences, of all sentences; entailed: stories whose answer is entailed;
    consistent: stories without a malformed sentence or an impossible event; chance: the expected accuracy of guessing among the
    choices of each story; stories: their number. Shares of no stories are 0.
    """
    reports = [check(text) for text in texts]
    count = max(len(reports), 1)
    return {
        "well_formed": sum(r.well_formed for r in reports) / max(sum(r.sentences for r in reports), 1),
        "entailed": sum(r.entailed for r in reports) / count,
        "consistent": sum(r.consistent for r in reports) / count,
        "chance": sum(r.chance for r in reports) / count,
        "stories": float(len(reports)),
    }


def by_question(texts: Iterable[str]) -> dict[str, dict[str, float]]:
    """Returns `aggregate` for each kind of question among `texts`; key "" for texts without one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        groups[check(text).question].append(text)
    return {kind: aggregate(group) for kind, group in sorted(groups.items())}
