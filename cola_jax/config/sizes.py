"""What a config's family asks of the text it is given and of the machine, by the table FACTS."""

from __future__ import annotations

from cola_jax.config.families import FACTS
from cola_jax.config.families.facts import Attention, Facts, Vocabulary
from cola_jax.config.fields import RunConfig


def facts(c: RunConfig) -> Facts:
    """Returns the facts of a config's family."""
    return FACTS[c.family]


def tokens_of_block(c: RunConfig) -> int:
    """Returns the tokens at whose multiples a packed document may start: no block of any mask then holds two documents."""
    return facts(c).tokens_of_block(c)


def vocabulary(c: RunConfig) -> Vocabulary:
    """Returns the vocabulary of the family's model."""
    return facts(c).vocabulary(c)


def attention(c: RunConfig) -> tuple[Attention, ...]:
    """Returns every attention of the family's training step."""
    return facts(c).attention(c)
