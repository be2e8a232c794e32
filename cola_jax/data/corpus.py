"""A corpus: the packed rows of every source, training and held-out, by random access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cola_jax.config import RunConfig, vocabulary
from cola_jax.data.errors import DataError, Warn
from cola_jax.data.packing import Row
from cola_jax.data.progress_bar import bar
from cola_jax.data.sources import Division, Documents, by_reason
from cola_jax.data.tokenizers import Tokenizer

LONGEST_EXAMPLE = 20  # characters that a warning shows


class Rows(Protocol):
    """Packed rows by random access, in the form of `packing.row`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


@dataclass(frozen=True)
class Part:
    """The rows of one source; `weight` is its relative share of the rows of a batch."""

    name: str
    weight: float
    train: Rows
    heldout: Rows


@dataclass(frozen=True)
class Joined:
    """Concatenated rows."""

    parts: Sequence[Rows]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> Row:
        left = index
        for part in self.parts:
            if 0 <= left < len(part):
                return part[left]
            left -= len(part)
        raise IndexError(index)


@dataclass(frozen=True)
class Corpus:
    """The data of a run: `corpus.train[i]` and `corpus.heldout[i]` are rows; batches mix the parts by weight."""

    parts: tuple[Part, ...]

    @property
    def train(self) -> Joined:
        return Joined([part.train for part in self.parts])

    @property
    def heldout(self) -> Joined:
        return Joined([part.heldout for part in self.parts])


@dataclass
class Unknown:
    """Documents of a source with characters that the tokenizer has no token for."""

    documents: int = 0
    of: int = 0
    example: str = ""  # such characters

    def line(self) -> str:
        """Returns the warning about them."""
        return (
            f"{self.documents} of {self.of} documents hold characters that the tokenizer has no token for, e.g."
            f" {self.example!r}: they are lost"
        )


def encoded(documents: Documents, tokenizer: Tokenizer, name: str, unknown: Unknown) -> Iterator[list[int]]:
    """Yields the ids of every document and counts those with `unknown` characters; shows progress."""
    for index in bar(range(len(documents)), f"tokenizing {name}", "documents"):
        text = documents[index]
        ids = tokenizer.encode(text)
        unknown.of += 1
        if tokenizer.drops(text, ids):
            unknown.documents += 1
            unknown.example = unknown.example or tokenizer.lost(text)[:LONGEST_EXAMPLE]
        yield ids


def report_division(name: str, division: Division, unknown: Unknown, warn: Warn) -> None:
    """Warns about omissions of a source: files left out, records skipped, characters without a token."""
    for note in division.notes:
        warn(note)
    if division.skipped:
        warn(f"{name}: {sum(division.skipped.values())} records were skipped: {by_reason(division.skipped)}")
    if unknown.documents:
        warn(f"{name}: {unknown.line()}")


def check_vocabulary(cfg: RunConfig, tokenizer: Tokenizer) -> None:
    """Raises DataError if the model's vocabulary is smaller than the tokenizer's: some ids would be out of range."""
    ours, theirs = vocabulary(cfg), tokenizer.vocab_size
    if theirs > ours.size:
        raise DataError(
            f"{ours.field}={ours.size} is smaller than the tokenizer's {theirs}: set {ours.field} to at least {theirs}"
        )
    if theirs > ours.of_text:
        raise DataError(
            f"{ours.field}={ours.size}: the tokenizer has {theirs} ids, and the mask uses the last one: set {ours.field}"
            f" to at least {theirs + 1}, or llada.mask_id to an id unused by text"
        )


def check_rows(name: str, train: int) -> None:
    """Raises DataError if a source has no row to train on."""
    if train == 0:
        raise DataError(f"{name} has no training rows: data.generated_documents or the corpus is empty")
