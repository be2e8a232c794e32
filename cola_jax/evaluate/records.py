"""Records of a task, read from JSONL: question, choices and right answer.

A record has `prompt`, a finished one, or the fields that a protocol's lines name (`question`, `context`); `choices`, a
list of texts, if there are some; and `answer` or `ground_truth`: a text, a list of texts that are all right, or, with
choices, the number of one, 0 being the first, as a number or, if no choice is that text, as a text. `id` is kept.
Generations also have the generated text in `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from cola_jax import storage
from cola_jax.data.errors import DataError
from cola_jax.evaluate.normal_forms import as_written
from cola_jax.storage import AnyPath

SHOWN = 5  # number of bad records that one error names
T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """One question.

    Attributes:
      where: "FILE, line N", for messages.
      id: as the file has it, or the record's number, 0 being the first.
      fields: the texts that a protocol's lines may name, by name.
      prompt: a finished prompt; "" if the protocol makes it.
      choices: possible answers; empty for free answers.
      answers: right answers, at least one.
      chance: probability that a guess is right, for records without choices; None: not known.
    """

    where: str
    id: str | int
    fields: dict[str, str]
    prompt: str
    choices: tuple[str, ...]
    answers: tuple[str, ...]
    chance: float | None = None


@dataclass(frozen=True)
class Generation:
    """A record and the text that was generated for it."""

    record: Record
    text: str


def read_records(path: str | AnyPath) -> list[Record]:
    """Reads a task's records.

    Raises:
      DataError: naming the bad records by file and line. StorageError: if the file is missing or no text.
    """
    return _read(storage.path(path), _record)


def read_generations(path: str | AnyPath) -> list[Generation]:
    """Reads records with their generated text.

    Raises:
      DataError: naming the bad records by file and line.
    """

    def generation(where: str, number: int, tree: dict[str, Any]) -> Generation:
        return Generation(_record(where, number, tree), _text(tree, "generate", required=True))

    return _read(storage.path(path), generation)


def _read(path: AnyPath, make: Callable[[str, int, dict[str, Any]], T]) -> list[T]:
    made, problems = [], []
    for line, tree in json_lines(path):
        where = f"{path}, line {line}"
        try:
            if not isinstance(tree, dict):
                raise ValueError(f"expected a record in braces, got {str(tree)[:40]!r}")
            made.append(make(where, len(made) + len(problems), tree))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise DataError(listed(problems))
    if not made:
        raise DataError(f"{path} holds no records")
    return made


def listed(problems: list[str]) -> str:
    """Returns the first SHOWN problems as one line, and how many more there are."""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def json_lines(path: AnyPath) -> Iterator[tuple[int, Any]]:
    """Yields (number, value) of every line that is not blank, 1 being the first; see `storage.open_stream` for what is read.

    Raises:
      StorageError: if the file is missing, not text, or a line is not JSON or not valid Unicode.
    """
    for number, line in storage.text_lines(path):
        if line.strip():
            yield number, storage.parse_json(line, f"{path}, line {number}")


def _record(where: str, number: int, tree: dict[str, Any]) -> Record:
    choices = tree.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError(f"choices must be a list of texts that are not empty, got {choices!r}")
    if len(choices) == 1 or len(choices) > 26:
        raise ValueError(f"choices has {len(choices)} entries; between 2 and 26 have letters")
    taken = ("prompt", "choices", "answer", "ground_truth", "id", "generate")
    fields = {name: value for name, value in tree.items() if isinstance(value, str) and name not in taken}
    answers = _answers(tree, choices)
    return Record(where, tree.get("id", number), fields, _text(tree, "prompt", required=False), tuple(choices), answers)


def _answers(tree: dict[str, Any], choices: list[str]) -> tuple[str, ...]:
    names = [name for name in ("answer", "ground_truth") if tree.get(name) is not None]
    if len(names) != 1:
        raise ValueError("a record needs an answer" if not names else "answer and ground_truth: give one of them")
    given = tree[names[0]]
    if isinstance(given, int) and not isinstance(given, bool) and choices:
        if not 0 <= given < len(choices):
            raise ValueError(
                f"{names[0]}={given} is not the number of one of {len(choices)} choices, 0 being the first"
            )
        return (choices[given],)
    answers = given if isinstance(given, list) else [given]
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ValueError(f"{names[0]} must be a text or a list of texts, got {given!r}")
    return tuple(_meant(answer, choices) for answer in answers)


def _meant(answer: str, choices: list[str]) -> str:
    """Returns the choice whose number a text is, unless some choice is that text; any other text unchanged."""
    written, number = as_written(answer), answer.strip()
    if written in map(as_written, choices) or not (number.isascii() and number.isdigit()) or len(number) > 2:
        return answer
    return choices[int(number)] if int(number) < len(choices) else answer


def _text(tree: dict[str, Any], name: str, required: bool) -> str:
    value = tree.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"field {name} must be a text, got {value!r}" if name in tree else f"field {name} is missing")
    return value
