"""The grammar of the small world: the generator fills in these forms, and the checker parses them.

A slot in braces is a word of a class. `{the_thing}` is "the key" or "the red key".
"""

from __future__ import annotations

import functools
import re

from cola_jax.data import tinyworld_words as words
from cola_jax.data.tinyworld_state import Event, Question

PHRASES = {  # actions of people: "Anna ...", "Anna and Ben ...", "Then she ... and ..."
    "be": ("was in the {place}",),
    "have": ("had a {colour} {thing}",),
    "go": ("{go} to the {place}",),
    "take": ("{take} {the_thing}",),
    "drop": ("{drop} {the_thing}",),
    "put": ("{put} {the_thing} in the {container}",),
    "remove": ("{remove} {the_thing} out of the {container}",),
    "give": ("{give} {the_thing} to {other}", "{give} {other} {the_thing}"),
    "paint": ("{paint} the {thing} {colour}",),
    "act": ("{act}", "{act} {manner}"),
}
STATES = ("be", "have")  # phrases that are not actions
SENTENCES = {  # sentences without an acting person
    "thing_at": (
        "There was a {colour} {thing} in the {place}",
        "A {colour} {thing} was in the {place}",
        "A {colour} {thing} lay in the {place}",
    ),
    "thing_inside": ("There was a {colour} {thing} in the {container}", "A {colour} {thing} lay in the {container}"),
    "container_at": ("There was a {container} in the {place}", "A {container} stood in the {place}"),
    "own": ("The {thing} belonged to {other}",),
    "scenery": ("It was a {weather} {time}", "The {scenery} was {look}", "A {animal} {animal_act}"),
}
QUESTIONS = {
    "where_person": "Where is {subject_person}",
    "where_thing": "Where is the {subject_thing}",
    "who_has": "Who has the {subject_thing}",
    "who_owns": "Who owns the {subject_thing}",
    "colour": "What colour is the {subject_thing}",
    "inside": "What is in the {subject_container}",
    "first_deed": "What did {subject_person} do first",
    "last_deed": "What did {subject_person} do last",
}
ANSWERS = {"place": "the {}", "thing": "the {}", "person": "{}", "colour": "{}", "deed": "{}"}
SLOTS = {
    "go": words.GO, "take": words.TAKE, "drop": words.DROP, "put": words.PUT, "give": words.GIVE,
    "remove": words.REMOVE, "paint": words.PAINT, "act": words.ACTS, "manner": words.MANNERS,
    "weather": words.WEATHERS, "time": words.TIMES, "scenery": words.SCENERY, "look": words.LOOKS,
    "animal": words.ANIMALS, "animal_act": words.ANIMAL_ACTS,
}  # fmt: skip
NAMED = {
    "place": words.PLACES, "thing": words.OBJECTS, "container": words.CONTAINERS, "colour": words.COLOURS,
    "other": words.PEOPLE, "subject_person": words.PEOPLE, "subject_thing": words.OBJECTS,
    "subject_container": words.CONTAINERS,
}  # fmt: skip


def _regex(form: str) -> re.Pattern[str]:
    """Compiles a form; words of NAMED slots become groups."""
    form = form.replace("{the_thing}", "the (?:{colour} )?{thing}")
    for slot, choices in SLOTS.items():
        group = f"(?P<act>{'|'.join(choices)})" if slot == "act" else f"(?:{'|'.join(choices)})"
        form = form.replace("{" + slot + "}", group)
    for slot, choices in NAMED.items():
        form = form.replace("{" + slot + "}", f"(?P<{slot}>{'|'.join(choices)})")
    return re.compile(form)


@functools.cache
def _compiled(table: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    forms = {"phrases": PHRASES, "sentences": SENTENCES, "questions": {k: (q,) for k, q in QUESTIONS.items()}}[table]
    return tuple((kind, _regex(form)) for kind, choices in forms.items() for form in choices)


@functools.cache
def _subject() -> re.Pattern[str]:
    name = "|".join(words.PEOPLE)
    when = "|".join(words.FIRSTLY)
    return re.compile(
        rf"(?:(?P<when>{when}) )?"
        rf"(?:(?P<one>{name})(?: and (?P<two>{name}))?|(?P<pronoun>{'|'.join(words.PRONOUNS)})) (?P<rest>.+)"
    )


def parse(sentence: str, last_subject: str) -> tuple[list[Event], str] | None:
    """Parses one sentence without its full stop.

    Args:
      last_subject: the one person whom the last sentence about people began with; "" for none or two.

    Returns:
      The events and the new last subject, or None if the sentence is not in the grammar. A pronoun
      without a referent gives events of the person "".
    """
    for kind, pattern in _compiled("sentences"):
        if match := pattern.fullmatch(sentence):
            return [Event(kind, **_slots(match))], last_subject
    match = _subject().fullmatch(sentence)
    if match is None:
        return None
    if match["pronoun"]:
        if bool(match["when"]) != match["pronoun"].islower():
            return None
        gender = words.WOMEN if match["pronoun"].lower() == "she" else words.MEN
        people: tuple[str, ...] = (last_subject if last_subject in gender else "",)
    else:
        people = (match["one"], match["two"]) if match["two"] else (match["one"],)
    phrases = match["rest"].split(" and ")
    events = [_phrase(phrase, people) for phrase in phrases]
    if len(events) > 2 or None in events or people[0] == people[-1] and len(people) == 2:
        return None
    return events, people[0] if len(people) == 1 else ""


def _phrase(text: str, people: tuple[str, ...]) -> Event | None:
    singular = re.sub(r"^were\b", "was", text) if len(people) == 2 else text
    if len(people) == 2 and text.startswith("was "):
        return None
    for kind, pattern in _compiled("phrases"):
        if match := pattern.fullmatch(singular):
            if len(people) == 2 and kind not in ("be", "go", "act"):
                return None
            slots = _slots(match)
            said = slots.pop("act", "" if kind in STATES else text)
            return Event(kind, people, said=said, **slots)
    return None


def _slots(match: re.Match[str]) -> dict[str, str]:
    return {name: value for name, value in match.groupdict().items() if value}


def parse_question(sentence: str) -> Question | None:
    """Parses a question without its question mark."""
    for kind, pattern in _compiled("questions"):
        if match := pattern.fullmatch(sentence):
            return Question(kind, next(iter(_slots(match).values())))
    return None


def parse_answer(sentence: str, answer_class: str) -> str | None:
    """Reads "the kitchen", "Anna", "red" or a verb phrase as a bare answer of this class."""
    if answer_class == "deed":
        event = _phrase(sentence, ("",))
        return event.said or None if event else None
    choices = NAMED["other" if answer_class == "person" else answer_class]
    match = re.fullmatch(ANSWERS[answer_class].format(f"(?P<bare>{'|'.join(choices)})"), sentence)
    return match["bare"] if match else None
