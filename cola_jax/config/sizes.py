"""What a config's family requires of the text and of the machine, from the table FACTS."""

from __future__ import annotations

from cola_jax.config.families import FACTS
from cola_jax.config.families.facts import Attention, Facts, Vocabulary
from cola_jax.config.fields import RunConfig


def facts(c: RunConfig) -> Facts:
    """Returns the facts of a config's family."""
    return FACTS[c.family]


def tokens_of_block(c: RunConfig) -> int:
    """Returns the number of tokens at whose multiples a packed document may start, so that no block of a mask holds two."""
    return facts(c).tokens_of_block(c)


def vocabulary(c: RunConfig) -> Vocabulary:
    """Returns the vocabulary of the family's model."""
    return facts(c).vocabulary(c)


def attention(c: RunConfig) -> tuple[Attention, ...]:
    """Returns every attention of the family's training step."""
    return facts(c).attention(c)
