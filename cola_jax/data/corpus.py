"""A corpus: the packed rows of every source, training and held-out, by random access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from cola_jax.config import RunConfig, vocabulary
from cola_jax.config.fields import SourceConfig
from cola_jax.data.errors import DataError
from cola_jax.data.packing import Row
from cola_jax.data.sources import SHOW_AFTER, Documents
from cola_jax.data.tokenizers import Tokenizer


class Rows(Protocol):
    """Packed rows by random access; see packing.row for what one is."""

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
    """Rows one after another."""

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
    """What a run reads: `corpus.train[i]` and `corpus.heldout[i]` are rows; batches mix the parts by weight."""

    parts: tuple[Part, ...]

    @property
    def train(self) -> Joined:
        return Joined([part.train for part in self.parts])

    @property
    def heldout(self) -> Joined:
        return Joined([part.heldout for part in self.parts])


def name_of(source: SourceConfig) -> str:
    """Returns how a source is called in messages."""
    return f"{source.kind} {', '.join(source.path)}".strip()


def encoded(documents: Documents, tokenizer: Tokenizer, name: str) -> Iterator[list[int]]:
    """Yields the ids of every document; slow work shows its progress on stderr."""
    for index in tqdm(range(len(documents)), f"tokenizing {name}", delay=SHOW_AFTER, unit=" documents"):
        yield tokenizer.encode(documents[index])


def check_vocabulary(cfg: RunConfig, tokenizer: Tokenizer) -> None:
    """Raises DataError where the model has fewer words than the tokenizer: their ids would be read as other words."""
    ours, theirs = vocabulary(cfg), tokenizer.vocab_size
    if theirs > ours.size:
        raise DataError(
            f"{ours.field}={ours.size} is smaller than the tokenizer's {theirs}: set {ours.field} to at least {theirs}"
        )
    if theirs > ours.of_text:
        raise DataError(
            f"{ours.field}={ours.size}: the tokenizer has {theirs} ids, and the mask takes the last one: set {ours.field}"
            f" to at least {theirs + 1}, or llada.mask_id to an id that no text holds"
        )


def check_rows(name: str, train: int) -> None:
    """Raises DataError where a source has no row to train on."""
    if train == 0:
        raise DataError(f"{name} has no training rows: data.generated_documents or the corpus is empty")
