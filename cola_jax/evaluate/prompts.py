"""Prompts given by users: read from lines or JSONL, checked before generation, and continued in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cola_jax import storage
from cola_jax.data.errors import DataError
from cola_jax.generate.prompts import PromptError
from cola_jax.runs.writer import Writer
from cola_jax.storage import AnyPath

JSON_LINES = {".jsonl", ".ndjson", ".json"}
COMPRESSED = {".gz", ".bz2", ".zst"}


class Prompt(NamedTuple):
    """A prompt and its location, for messages."""

    where: str
    text: str


def read(path: str | AnyPath) -> list[Prompt]:
    """Reads a file, a FIFO or, as "-", stdin; blank lines are left out, and only a newline ends a line.

    The lines are records if the file has a JSON Lines ending, or if the first of them is a record with a field `prompt`.

    Raises:
      StorageError: if it cannot be read, or is not UTF-8 text. DataError: if it has no prompts, or a record is invalid.
    """
    given = str(path)
    path = storage.path(path, "--prompts")
    if given != "-" and (path.is_dir() or not path.exists()):
        raise DataError(f"--prompts {given}: {'is a folder' if path.is_dir() else 'no such file'}")
    lines = [(number, line) for number, line in storage.text_lines(path) if line.strip()]
    if not lines:
        raise DataError(f"--prompts {given} holds no prompts")
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    records = (endings or [""])[-1] in JSON_LINES or _is_record(lines[0][1])
    place = lambda number: f"--prompts {given}, line {number}"
    return [Prompt(place(n), _prompt_of(line, place(n)) if records else line) for n, line in lines]


def _is_record(line: str) -> bool:
    try:
        value = storage.parse_json(line, "") if line.lstrip().startswith("{") else None
    except storage.StorageError:
        return False
    return isinstance(value, dict) and "prompt" in value


def _prompt_of(line: str, where: str) -> str:
    record = storage.parse_json(line, where)
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise DataError(f"{where}: a record needs a field prompt with text, got {line[:40]!r}")
    return record["prompt"]


def encode(writer: Writer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Returns the token ids of every prompt.

    Raises:
      PromptError: for the first prompt that the run cannot continue, by its number, from 0, and its location.
    """
    rows = []
    for number, (where, text) in enumerate(prompts):
        try:
            rows.append(writer.encode(number, text))
        except PromptError as error:
            raise PromptError(f"{error} ({where})") from error
    return rows


def answers(
    writer: Writer, prompts: Sequence[Prompt], rows: Sequence[Sequence[int]], seed: int, batch_size: int
) -> Iterator[tuple[str, str]]:
    """Yields (prompt, continuation) of every prompt, in order, batch by batch."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        texts = [""] * len(batch)
        for pieces in writer.stream_rows(batch, seed=seed, samples=range(start, start + len(batch))):
            texts = [text + piece for text, piece in zip(texts, pieces)]
        yield from zip((prompt.text for prompt in prompts[start : start + len(batch)]), texts)
