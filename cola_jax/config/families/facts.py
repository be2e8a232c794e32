"""The facts of a family that follow from its config alone; rooms other than the family read them here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cola_jax.config.fields import RunConfig

Check = tuple[bool, str]  # whether two fields contradict each other, and the sentence that says so

CUT = ("sampling.max_new_tokens", "sampling.stop_at_eos")
CHOOSE = tuple(f"sampling.{name}" for name in ("repetition_penalty", "temperature", "top_k", "top_p"))


class Switch(NamedTuple):
    """Fields that are read only where another one, `field`, has such a value."""

    names: tuple[str, ...]
    field: str
    reads: Callable[[RunConfig], bool]


CHOOSE_SWITCH = Switch(
    ("sampling.top_k", "sampling.top_p"), "sampling.temperature", lambda c: c.sampling.temperature > 0
)


class Vocabulary(NamedTuple):
    """The field that sizes a vocabulary, its value, and how many of its ids, counted from 0, text may hold."""

    field: str
    size: int
    of_text: int


class Attention(NamedTuple):
    """One attention of a family's training step.

    Attributes:
      name: in messages. positions: what a position is, tokens or latents.
      length: positions of a row. block_size: positions of a block of its mask; 1: causal by position.
      head_dim: channels of a head. masked: False where every position sees its whole document.
    """

    name: str
    positions: str
    length: int
    block_size: int
    head_dim: int
    masked: bool


@dataclass(frozen=True)
class Facts:
    """What other rooms need to know of a family before there is a model.

    Attributes:
      reads: paths, and prefixes of paths that end in ".", that the family reads of the groups in `reads.OF_FAMILIES`.
      checks: (cfg) -> one `Check` for every pair of the family's fields that must fit each other.
      vocabulary: (cfg) -> Vocabulary.
      tokens_of_block: (cfg) -> tokens at whose multiples a packed document may start: no block of any mask then holds two
        documents.
      attention: (cfg) -> every attention of the training step; kernels and the mesh axis `sequence` must fit each.
      split_by_tensor: (cfg) -> {field: size} of what the mesh axis `tensor` must divide.
      ignores: paths of those groups, and of groups that all families read, that it does not read.
      switches: fields of `reads` that another field switches off.
    """

    reads: tuple[str, ...]
    checks: Callable[[RunConfig], list[Check]]
    vocabulary: Callable[[RunConfig], Vocabulary]
    tokens_of_block: Callable[[RunConfig], int]
    attention: Callable[[RunConfig], tuple[Attention, ...]]
    split_by_tensor: Callable[[RunConfig], dict[str, int]]
    ignores: tuple[str, ...] = ()
    switches: tuple[Switch, ...] = ()
