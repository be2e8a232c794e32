"""Draws one story of the small world from a random generator: possible events in varied wordings."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from cola_jax.data import tinyworld_words as words
from cola_jax.data.tinyworld_grammar import ANSWERS, PHRASES, QUESTIONS, SENTENCES, SLOTS, STATES
from cola_jax.data.tinyworld_state import (
    ANSWER_CLASS,
    Event,
    Question,
    World,
    answers,
    apply,
    candidates,
    possible,
)

LONGEST_END = 18  # words of a usual sentence, the question and its answer
MOST_WORDS = 47  # words and marks of a story: at about a piece a word, it fits in 48 tokens
DEED_WEIGHTS = (
    ("go", 4.0), ("take", 8.0), ("drop", 3.0), ("put", 14.0), ("remove", 6.0), ("give", 10.0), ("paint", 2.5), ("act", 2.0)
)  # fmt: skip
TURNS = (0.3, 0.3, 0.25, 0.15)  # weights of 0, 1, 2 and 3 sentences after the opening
QUESTION_WEIGHTS = {"colour": 0.5, "inside": 2.0}  # 1 if not named
STALE = 0.1  # factor on a question's weight per sentence since the one that answers it
T = TypeVar("T")


def draft(rng: random.Random) -> str:
    """Returns one story, or "" if the draw has no question or is too long."""
    world, sentences, last = World(), [], ""
    known: dict[Question, str] = {}
    news: dict[Question, int] = {}  # the sentence that gave a question its answer
    for events, phrases, when, shorten in _tell(rng, world):
        sentences.append(_sentence(events[0].people, phrases, when, last if shorten else ""))
        last = _subject_after(events, last)
        before, known = known, answers(world)
        news |= {question: len(sentences) for question, reply in known.items() if before.get(question) != reply}
        if _length(sentences) > MOST_WORDS - LONGEST_END:
            break
    question = _question(rng, world, known, news)
    if question is None:
        return ""
    asked = re.sub(r"\{\w+\}", question.subject, QUESTIONS[question.kind])
    reply = ANSWERS[ANSWER_CLASS[question.kind]].format(known[question])
    text = " ".join(f"{sentence}." for sentence in sentences) + f" {asked}? Answer: {reply}."
    return text if _length(sentences) + len(asked.split()) + len(reply.split()) + 4 <= MOST_WORDS else ""


def _tell(rng: random.Random, world: World) -> Iterator[tuple[list[Event], list[str], str, bool]]:
    """Builds a story sentence by sentence: events, their wording, an adverb or "", and whether a pronoun is allowed."""
    cast = tuple(_names(rng, words.PEOPLE, 2 if rng.random() < 0.9 else 3))
    places = _names(rng, words.PLACES, 3)
    for events in _opening(rng, cast, places):
        yield events, [_phrase(rng, world, event) for event in events], "", False
    for _ in range(_weighted(rng, TURNS)):
        events, phrases = _turn(rng, world, cast, places)
        when = _wording(rng, words.FIRSTLY) if events[0].people and rng.random() < 0.1 else ""
        yield events, phrases, when, rng.random() < 0.25


def _length(sentences: Sequence[str]) -> int:
    """Returns the words and full stops of sentences."""
    return sum(sentence.count(" ") + 2 for sentence in sentences)


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def _name(rng: random.Random, choices: Sequence[str]) -> str:
    """Returns a word of a class, with frequencies by Zipf's law, as in natural text."""
    return choices[_weighted(rng, _zipf(len(choices), 1.0))]


def _wording(rng: random.Random, choices: Sequence[str]) -> str:
    """Returns one of several wordings, the first one by far the most often."""
    return choices[_weighted(rng, _zipf(len(choices), 1.7))]


@functools.cache
def _zipf(count: int, exponent: float) -> tuple[float, ...]:
    return tuple(rank**-exponent for rank in range(1, count + 1))


def _weighted(rng: random.Random, weights: Sequence[float]) -> int:
    """Returns an index, drawn in proportion to its weight."""
    left = rng.random() * sum(weights)
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return len(weights) - 1


def _sample(rng: random.Random, choices: Sequence[T], count: int) -> list[T]:
    rest = list(choices)
    return [rest.pop(int(rng.random() * len(rest))) for _ in range(count)]


def _names(rng: random.Random, choices: Sequence[str], count: int) -> list[str]:
    """Returns different words of a class."""
    drawn: list[str] = []
    while len(drawn) < count:
        word = _name(rng, choices)
        drawn += [word] if word not in drawn else []
    return drawn


def _opening(rng: random.Random, cast: tuple[str, ...], places: Sequence[str]) -> list[list[Event]]:
    """Returns the events of two to four sentences that introduce people and things."""
    first, second = _names(rng, words.OBJECTS, 2)
    colour, other_colour = _names(rng, words.COLOURS, 2)
    container = _name(rng, words.CONTAINERS)
    here = places[0]
    near = here if rng.random() < 0.4 else places[1]
    being = [Event("be", cast[:2] if rng.random() < 0.2 else cast[:1], place=here)]
    lying = [Event("thing_at", thing=first, colour=colour, place=near)]
    having = [Event("have", cast[:1], thing=first, colour=colour)]
    standing = [Event("container_at", container=container, place=near)]
    inside = [Event("thing_inside", thing=second, colour=other_colour, container=container)]
    beside = [Event("thing_at", thing=second, colour=other_colour, place=near)]
    draw = rng.random()
    if draw < 0.3:
        told = [being, lying, beside] if draw < 0.15 else [being, lying]
    elif draw < 0.5:
        told = [*_joined(being, having), beside]
    elif draw < 0.8:
        told = [*_joined(being, having), standing, inside] if draw < 0.6 else [*_joined(being, having), standing]
    else:
        told = [standing, inside, being] if draw < 0.9 else [being, lying, standing]
    if len(told) < 3 and rng.random() < 0.4:
        told.append([Event("own", thing=first, other=_pick(rng, cast))])
    return told


def _joined(being: list[Event], having: list[Event]) -> list[list[Event]]:
    """Returns the places of people and a possession of the first: one sentence for one person, two for two."""
    return [being + having] if len(being[0].people) == 1 else [being, having]


def _turn(
    rng: random.Random, world: World, cast: Sequence[str], places: Sequence[str]
) -> tuple[list[Event], list[str]]:
    """Draws one or two events (two by the same person). Returns the events and their wording."""
    if rng.random() < 0.04:
        event = Event("scenery")
        return [event], [_phrase(rng, world, event)]
    pair = tuple(_sample(rng, cast, 2)) if rng.random() < 0.05 else ()
    actors = (
        pair
        if pair and world.place.get(pair[0]) == world.place.get(pair[1])
        else (cast[0] if rng.random() < 0.3 else _pick(rng, cast),)
    )
    events = [_deed(rng, world, actors, cast, places)]
    phrases = [_phrase(rng, world, events[0])]
    if len(actors) == 1 and rng.random() < 0.1:
        events.append(_deed(rng, world, actors, cast, places))
        phrases.append(_phrase(rng, world, events[1]))
    return events, phrases


def _deed(
    rng: random.Random, world: World, actors: tuple[str, ...], cast: Sequence[str], places: Sequence[str]
) -> Event:
    """Returns an event that `actors` can do now; one always exists."""
    left = [(kind, weight) for kind, weight in DEED_WEIGHTS if len(actors) == 1 or kind in ("go", "act")]
    while True:
        chosen = _weighted(rng, [weight for _, weight in left])
        kind, _ = left.pop(chosen)
        options = [e for e in _options(rng, world, kind, actors, cast, places) if possible(world, e)]
        if options:
            return _pick(rng, options)


def _options(
    rng: random.Random, world: World, kind: str, actors: tuple[str, ...], cast: Sequence[str], places: Sequence[str]
) -> list[Event]:
    things, containers = world.seen.get("thing", ()), world.seen.get("container", ())
    if kind == "go":
        useful = _useful_places(world, actors, cast) if rng.random() < 0.8 else ()
        return [Event(kind, actors, place=place) for place in useful or places]
    if kind == "act":
        return [Event(kind, actors)]
    if kind == "give":
        return [Event(kind, actors, thing=thing, other=other) for thing in things for other in cast]
    if kind in ("put", "remove"):
        return [Event(kind, actors, thing=thing, container=c) for thing in things for c in containers]
    if kind == "paint":
        return [Event(kind, actors, thing=thing, colour=_name(rng, words.COLOURS)) for thing in things]
    return [Event(kind, actors, thing=thing) for thing in things]


def _useful_places(world: World, actors: tuple[str, ...], cast: Sequence[str]) -> list[str]:
    """Returns places other than that of the first of `actors` where they could take, put or give something."""
    here, me = world.place.get(actors[0]), actors[0]
    laden = any(world.holds(me, thing) for thing in world.spot)
    around = [*world.seen.get("container", ()), *(person for person in cast if person != me)]
    wanted = [world.place.get(one) for one in around] if laden else []
    wanted += [world.place_of_thing(thing) for thing, (kind, _) in world.spot.items() if kind != "person"]
    return [place for place in wanted if place and place != here]


def _phrase(rng: random.Random, world: World, event: Event) -> str:
    """Chooses a wording, applies the event, and returns the wording: a verb phrase or a whole sentence."""
    known = world.colour.get(event.thing, "")
    form = _wording(rng, (PHRASES if event.people else SENTENCES)[event.kind])
    often = 0.1 if event.container else 0.3  # probability of naming a colour again; stories with containers are long
    the_thing = f"the {known} {event.thing}" if known and rng.random() < often else f"the {event.thing}"
    filled = {name: getattr(event, name) for name in ("thing", "container", "place", "other", "colour")}
    drawn = {name: _wording(rng, choices) for name, choices in SLOTS.items() if "{" + name + "}" in form}
    text = form.format(the_thing=the_thing, **filled, **drawn)
    said = "" if event.kind in STATES or not event.people else drawn.get("act", text)
    apply(world, replace(event, said=said) if said else event)
    return text


def _sentence(people: tuple[str, ...], phrases: list[str], when: str, last: str) -> str:
    """Joins a subject (a pronoun if it is `last`) and its verb phrases."""
    if not people:
        return phrases[0]
    subject = " and ".join(people)
    if people == (last,):
        subject = "she" if last in words.WOMEN else "he"
        subject = subject if when else subject.capitalize()
    verb = re.sub(r"^was\b", "were", phrases[0]) if len(people) == 2 else phrases[0]
    return " ".join(part for part in (when, subject, " and ".join([verb, *phrases[1:]])) if part)


def _subject_after(events: list[Event], last: str) -> str:
    """Returns the person that a pronoun would refer to next; "" if it is ambiguous."""
    people = events[0].people
    if not people:
        return last
    return people[0] if len(people) == 1 and all(e.kind != "give" for e in events) else ""


def _question(
    rng: random.Random, world: World, known: dict[Question, str], news: dict[Question, int]
) -> Question | None:
    """Returns a question with one answer among at least two candidates; None if there is none.

    Recent events are asked about most often.
    """
    found = [question for question in known if len(candidates(world, question)) > 1]
    found = [q for q in found if ANSWER_CLASS[q.kind] != "deed" or known[q] in words.ACTS]
    latest = max(news.values(), default=0)
    weights = [QUESTION_WEIGHTS.get(q.kind, 1.0) * STALE ** (latest - news[q]) for q in found]
    return found[_weighted(rng, weights)] if found else None
