"""The facts of a family that follow from its config alone; packages other than the family read them here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cola_jax.config.fields import RunConfig

Check = tuple[bool, str]  # whether two fields contradict each other, and the message in that case

CUT = ("sampling.max_new_tokens", "sampling.stop_at_eos")
CHOOSE = tuple(f"sampling.{name}" for name in ("repetition_penalty", "temperature", "top_k", "top_p"))


class Switch(NamedTuple):
    """Fields that are read only for some values of another one, `field`."""

    names: tuple[str, ...]
    field: str
    reads: Callable[[RunConfig], bool]


CHOOSE_SWITCH = Switch(
    ("sampling.top_k", "sampling.top_p"), "sampling.temperature", lambda c: c.sampling.temperature > 0
)


class Vocabulary(NamedTuple):
    """The field that sizes a vocabulary, its value, and how many of its ids, counted from 0, text may contain."""

    field: str
    size: int
    of_text: int


class Attention(NamedTuple):
    """One attention of a family's training step.

    Attributes:
      name: for messages. positions: the unit of a position, tokens or latents.
      length: positions of a row. block_size: positions of a block of its mask; 1: causal by position.
      head_dim: channels of a head. masked: False if every position sees its whole document.
    """

    name: str
    positions: str
    length: int
    block_size: int
    head_dim: int
    masked: bool


@dataclass(frozen=True)
class Facts:
    """What other packages need from a family before its model is built.

    Attributes:
      reads: paths, and prefixes of paths that end in ".", that the family reads of the groups in `reads.OF_FAMILIES`.
      checks: (cfg) -> one `Check` for every pair of the family's fields that must fit each other.
      vocabulary: (cfg) -> Vocabulary.
      tokens_of_block: (cfg) -> a packed document may start at multiples of this number of tokens, so that no block
        of any mask holds two documents.
      attention: (cfg) -> every attention of the training step; kernels and the mesh axis `sequence` must fit each.
      split_by_tensor: (cfg) -> {field: size} sizes that the mesh axis `tensor` must divide.
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
