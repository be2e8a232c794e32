"""Reads stories of the small world back, knowing only their text: is every sentence one, and is the answer right?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from cola_jax.data.tinyworld_grammar import parse, parse_answer, parse_question
from cola_jax.data.tinyworld_state import ANSWER_CLASS, Event, Question, World, answer, apply, candidates, possible


@dataclass(frozen=True)
class StoryReport:
    """What a text is as a story.

    Attributes:
      sentences: how many, question and answer included; an unfinished last one counts.
      well_formed: how many of them the grammar has.
      impossible: events that the events before them rule out (they are taken to have happened all the same).
      question: kind of the question; "" if there is none.
      expected: the answer that the events entail, e.g. "kitchen"; "" if they leave it open.
      given: the answer that the text gives; "" if it gives none of the right form.
      choices: what the story mentions of the answer's class.
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
    """Returns the sentences with their closing . ? or :, in order; what follows the last of them is one more."""
    return [piece.strip() for piece in re.findall(r"[^.?:]*[.?:]|[^.?:]+$", text) if piece.strip()]


def finished(text: str) -> str:
    """Returns the text up to its last . ? or :, without the sentence that begins after it."""
    return re.sub(r"[^.?:]+$", "", text)


def check(text: str) -> StoryReport:
    """Reads `text` as a story; see StoryReport. The first question counts, and what is told after it changes nothing.

    Never raises, whatever the text.
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

    well_formed: sentences that the grammar has, of all sentences; entailed: stories whose answer is entailed;
    consistent: stories without a malformed sentence or an impossible event; chance: what guessing among the choices of
    each story would score; stories: their number. Shares of no stories are 0.
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
    """Returns `aggregate` for each kind of question among `texts`; "" are texts without one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        groups[check(text).question].append(text)
    return {kind: aggregate(group) for kind, group in sorted(groups.items())}
