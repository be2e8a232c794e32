"""Prompts and scoring of each task, read from a TOML file: `protocol.toml` beside this file is the paper's (SPEC 7)."""

from __future__ import annotations

import re
import string
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cola_jax import storage
from cola_jax.data.errors import DataError
from cola_jax.evaluate.records import Record
from cola_jax.evaluate.scoring import RULES
from cola_jax.storage import AnyPath

PAPER = Path(__file__).parent / "protocol.toml"
PUBLISHED = (
    "lambada",
    "squad",
    "mmlu",
    "obqa",
    "hellaswag",
    "race",
    "siqa",
    "story_cloze",
)  # tasks of the published numbers
BUILT_IN = "tinyworld/"  # tasks that generate their own records, in the formats of the published ones
NAME = re.compile(r"\w(?:[\w .,+@=()-]{0,98}[\w)+])?")  # name of a task, and of its folder
RESERVED = ("summary.csv", "summary.json")  # files beside those folders
OTHER = "other"  # the table for tasks without their own
KINDS = {"rule": str, "paper_rule": str, "shots": int, "lines": list, "optional": list, "max_new_tokens": int, "records": str,
         "demonstrations": list}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task of a protocol.

    Attributes:
      name: of the task.
      rule: one of scoring.RULES, of scorer release.
      paper_rule: the same of scorer paper.
      shots: demonstrations before the question.
      lines: the lines of a question; {name} is a field of the record, {choices} its choices as lines "(A) text".
      optional: fields that a record may lack; a line that contains one of them is then left out.
      max_new_tokens: number of new tokens.
      records: JSONL file of the task; "" if the command line names it.
      demonstrations: records as tables; each is the lines and, after the last, its answer.
    """

    name: str
    rule: str
    paper_rule: str
    shots: int
    lines: tuple[str, ...]
    optional: tuple[str, ...]
    max_new_tokens: int
    records: str
    demonstrations: tuple[Record, ...]

    def rule_of(self, scorer: str) -> str:
        """Returns the rule under a scorer of scoring.SCORERS."""
        return self.paper_rule if scorer == "paper" else self.rule

    @property
    def signs(self) -> bool:
        """Whether scorer release keeps signs, points and marks: for a user's own task, without a published number."""
        return self.name not in PUBLISHED and not self.name.startswith(BUILT_IN)


def load(path: str | AnyPath | None = None) -> dict[str, Task]:
    """Returns the tasks of a protocol file by name; of the paper's if none is named.

    Raises:
      DataError: for a file that cannot be read, and for a task with an unknown, a missing or an impossible field.
      StorageError: for a path that is not local, and a file that is no text.
    """
    path = storage.path(path or PAPER, "--protocol")
    if not path.is_file():
        raise DataError(f"--protocol {path}: no such file")
    try:
        tables = tomllib.loads(storage.read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DataError(f"--protocol {path} is not TOML: {error}") from error
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise DataError(f"--protocol {path}: expected a table for each task, e.g. [mmlu]")
    return {name: _task(path, name, table) for name, table in tables.items()}


def task_of(tasks: dict[str, Task], name: str) -> Task:
    """Returns the task of a name, or the table `other` under that name.

    Raises:
      DataError: if the protocol has neither, or the name cannot be that of a folder.
    """
    if not NAME.fullmatch(storage.check_text(name, "a task's name")) or name in RESERVED:
        raise DataError(
            f"task {name!r} cannot name its folder of answers: give letters, digits, spaces and . , + @ = ( ) - _, at most 100"
        )
    if name in tasks:
        return tasks[name]
    if OTHER not in tasks:
        raise DataError(f"task {name!r} is not in the protocol, which has {', '.join(tasks)} and no table {OTHER!r}")
    return Task(**{field.name: getattr(tasks[OTHER], field.name) for field in fields(Task)} | {"name": name})


def _beside(path: AnyPath, given: str, name: str) -> str:
    """Returns a path that is relative to the folder of the protocol; an absolute one unchanged."""
    found = storage.path(given, name)
    return str(found if storage.is_remote(found) else path.parent / found)


def _task(path: AnyPath, name: str, table: dict[str, Any]) -> Task:
    problems = [f"unknown field {field}" for field in table if field not in KINDS]
    problems += [f"field {field} is missing" for field in KINDS if field not in table and field != "records"]
    problems += [
        f"{field} must be {KINDS[field].__name__}, got {value!r}"
        for field, value in table.items()
        if field in KINDS and (not isinstance(value, KINDS[field]) or isinstance(value, bool))
    ]
    if not problems:
        problems = _impossible(table)
    if problems:
        raise DataError(f"--protocol {path}, [{name}]: {'; '.join(problems)} (fields: {', '.join(KINDS)})")
    where = f"{path}, [{name}]"
    shown = tuple(_demonstration(f"{where}, demonstration {n}", d) for n, d in enumerate(table["demonstrations"], 1))
    lines, optional = tuple(table["lines"]), tuple(table["optional"])
    given = table.get("records")
    records = _beside(path, given, f"{where}, records") if given else ""
    rules = table["rule"], table["paper_rule"]
    return Task(name, *rules, table["shots"], lines, optional, table["max_new_tokens"], records, shown)


def _impossible(table: dict[str, Any]) -> list[str]:
    """Returns what is wrong with values of the right types."""
    shots, given = table["shots"], len(table["demonstrations"])
    rules = {name: table[name] for name in ("rule", "paper_rule")}
    problems = [f"{n}={rule!r} is not one of {', '.join(RULES)}" for n, rule in rules.items() if rule not in RULES]
    problems += [f"shots={shots} needs as many demonstrations, {given} are given"] * (not 0 <= shots <= given)
    problems += [f"max_new_tokens={table['max_new_tokens']} must be at least 1"] * (table["max_new_tokens"] < 1)
    if not table["lines"] or not all(isinstance(line, str) for line in table["lines"] + table["optional"]):
        return [*problems, "lines and optional must be lists of texts, lines not empty"]
    try:
        fields_of(table["lines"])
    except ValueError as error:
        return [*problems, f"lines: {error}; literal braces must be doubled"]
    unnamed = [name for name in fields_of(table["lines"]) if name.isdigit() or not name or set(name) & set(".[")]
    problems += [f"lines: {{{name}}} is not the name of a field" for name in unnamed]
    formatted = [line for line in table["lines"] if any(f or c for _, _, f, c in string.Formatter().parse(line))]
    problems += [f"lines: {line!r} has a format after a name; give {{name}} alone" for line in formatted]
    return problems


def fields_of(lines: list[str] | tuple[str, ...]) -> set[str]:
    """Returns the names in braces. Raises ValueError if braces do not pair."""
    return {name for line in lines for _, name, _, _ in string.Formatter().parse(line) if name is not None}


def _demonstration(where: str, table: Any) -> Record:
    if not isinstance(table, dict) or not isinstance(table.get("answer"), str):
        raise DataError(f"{where}: expected a table with a text answer")
    choices = table.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{where}: choices must be a list of texts, got {choices!r}")
    named = {name: value for name, value in table.items() if isinstance(value, str) and name != "answer"}
    return Record(where, where, named, "", tuple(choices), (table["answer"],))


def prompt_of(task: Task, record: Record) -> str:
    """Returns a record's prompt: its own finished one, or demonstrations and its lines, the last of which asks for the
    answer.

    Raises:
      DataError: if the record or a demonstration lacks a field of the lines that is not optional.
    """
    if record.prompt:
        return record.prompt
    shown = [f"{_asked(task, demo)} {demo.answers[0]}" for demo in task.demonstrations[: task.shots]]
    return "\n\n".join([*shown, _asked(task, record)])


def _asked(task: Task, record: Record) -> str:
    values = dict(record.fields)
    if record.choices:
        values["choices"] = "\n".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(record.choices))
    missing = sorted(fields_of(task.lines) - set(values) - set(task.optional))
    if missing:
        raise DataError(
            f"{record.where}: no {', '.join(missing)}, which the prompt of task {task.name} needs; give a finished prompt, or "
            "change the lines in a protocol file"
        )
    return "\n".join(line.format(**values) for line in task.lines if fields_of([line]) <= set(values))
