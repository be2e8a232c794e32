"""The state of the small world: effects and preconditions of events, and answers to questions."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """One event of a story.

    Attributes:
      kind: a key of tinyworld_grammar.PHRASES or .SENTENCES.
      people: who did it; empty if nobody did.
      thing, container, place, other, colour: its arguments; `other` receives a thing or owns it.
      said: the verb phrase as written, which answers "What did ... do"; empty if nobody did anything.
    """

    kind: str
    people: tuple[str, ...] = ()
    thing: str = ""
    container: str = ""
    place: str = ""
    other: str = ""
    colour: str = ""
    said: str = ""


@dataclass(frozen=True)
class Question:
    """kind: where_person | where_thing | who_has | who_owns | colour | inside | first_deed | last_deed."""

    kind: str
    subject: str


@dataclass
class World:
    """The facts that follow from the events so far. Unknown facts are absent."""

    place: dict[str, str] = field(default_factory=dict)  # of people and containers
    spot: dict[str, tuple[str, str]] = field(default_factory=dict)  # thing -> ("person" | "container" | "place", which)
    colour: dict[str, str] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    deeds: list[tuple[str, str]] = field(default_factory=list)  # (person, verb phrase) in order
    seen: dict[str, list[str]] = field(default_factory=dict)  # class -> what was mentioned, in order

    def holds(self, person: str, thing: str) -> bool:
        return self.spot.get(thing) == ("person", person)

    def place_of_thing(self, thing: str) -> str | None:
        kind, where = self.spot.get(thing, ("", ""))
        return where if kind == "place" else self.place.get(where)


def possible(world: World, event: Event) -> bool:
    """Returns whether `event` can happen now: nobody drops a thing that they do not hold, or takes one that is elsewhere."""
    here = world.place.get(event.people[0]) if event.people else None
    together = all(world.place.get(person) == here for person in event.people)
    if event.kind in ("thing_at", "thing_inside", "have"):
        return event.thing not in world.spot
    if event.kind == "container_at":
        return event.container not in world.place
    if event.kind == "be":
        return not any(person in world.place for person in event.people)
    if event.kind == "own":
        return event.thing in world.spot and event.thing not in world.owner
    if event.kind == "go":
        return event.place != here and together
    if event.kind == "take":
        return here is not None and world.spot.get(event.thing) == ("place", here)
    if event.kind == "remove":
        inside = world.spot.get(event.thing) == ("container", event.container)
        return inside and here is not None and world.place.get(event.container) == here
    if event.kind in ("drop", "put", "give", "paint"):
        return world.holds(event.people[0], event.thing) and here is not None and _fits(world, event, here)
    return True


def _fits(world: World, event: Event, here: str) -> bool:
    if event.kind == "put":
        return world.place.get(event.container) == here
    if event.kind == "give":
        return event.other not in event.people and world.place.get(event.other) == here
    return event.kind == "drop" or event.colour != world.colour.get(event.thing)


def apply(world: World, event: Event) -> None:
    """Applies `event`, whether or not it is possible."""
    for name, values in _mentions(event):
        seen = world.seen.setdefault(name, [])
        seen += [value for value in values if value and value not in seen]
    if event.said:
        world.deeds += [(person, event.said) for person in event.people]
    if event.colour and (event.kind == "paint" or event.thing not in world.colour):
        world.colour[event.thing] = event.colour
    if event.kind in ("be", "go"):
        world.place.update({person: event.place for person in event.people})
    elif event.kind == "container_at":
        world.place[event.container] = event.place
    elif event.kind == "own":
        world.owner[event.thing] = event.other
    elif event.kind in ("take", "have", "remove"):
        world.spot[event.thing] = ("person", event.people[0])
    elif event.kind == "give":
        world.spot[event.thing] = ("person", event.other)
    elif event.kind in ("put", "thing_inside"):
        world.spot[event.thing] = ("container", event.container)
    elif event.kind == "thing_at":
        world.spot[event.thing] = ("place", event.place)
    elif event.kind == "drop":
        world.spot[event.thing] = ("place", world.place.get(event.people[0], ""))


def _mentions(event: Event) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (
        ("person", (*event.people, event.other)),
        ("place", (event.place,)),
        ("thing", (event.thing,)),
        ("container", (event.container,)),
        ("colour", (event.colour,)),
        ("deed", (event.said,)),
    )


def answer(world: World, question: Question) -> str | None:
    """Returns the bare answer that the events entail, e.g. "kitchen"; None if they do not determine it."""
    kind, subject = question.kind, question.subject
    if kind == "where_person":
        return world.place.get(subject)
    if kind == "where_thing":
        return world.place_of_thing(subject) or None
    if kind == "who_has":
        holder, which = world.spot.get(subject, ("", ""))
        return which if holder == "person" else None
    if kind == "who_owns":
        return world.owner.get(subject)
    if kind == "colour":
        return world.colour.get(subject)
    if kind == "inside":
        inside = [thing for thing, spot in world.spot.items() if spot == ("container", subject)]
        return inside[0] if len(inside) == 1 else None
    deeds = [said for person, said in world.deeds if person == subject]
    return (deeds[0] if kind == "first_deed" else deeds[-1]) if deeds else None


ANSWER_CLASS = {
    "where_person": "place",
    "where_thing": "place",
    "who_has": "person",
    "who_owns": "person",
    "colour": "colour",
    "inside": "thing",
    "first_deed": "deed",
    "last_deed": "deed",
}


def candidates(world: World, question: Question) -> tuple[str, ...]:
    """Returns the members of the answer's class that the story mentions, in order: chance is a guess among them."""
    return tuple(world.seen.get(ANSWER_CLASS[question.kind], ()))


def answers(world: World) -> dict[Question, str]:
    """Returns every question that the events so far answer, and its bare answer."""
    about = {"where_person": "person", "first_deed": "person", "last_deed": "person", "inside": "container"}
    asked = [Question(kind, s) for kind in ANSWER_CLASS for s in world.seen.get(about.get(kind, "thing"), ())]
    return {question: reply for question in asked if (reply := answer(world, question))}
