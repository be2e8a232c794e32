"""What a config's family asks of the text it is given."""

from __future__ import annotations

import math
from typing import NamedTuple

from cola_jax.config.fields import RunConfig


def tokens_of_block(c: RunConfig) -> int:
    """Returns the tokens at whose multiples a packed document may start: no block of any mask then holds two documents.

    Cola's latents are `vae.patch_size` tokens; the VAE's mask and, for the family cola, the DiT's have blocks of so many
    latents. The backbone has no blocks.
    """
    if c.family in BACKBONE_FAMILIES:
        return 1
    latents = math.lcm(c.vae.block_size, c.dit.block_size) if c.family == "cola" else c.vae.block_size
    return c.vae.patch_size * latents


BACKBONE_FAMILIES = ("ar", "llada", "plaid")  # those sized by the group backbone


class Vocabulary(NamedTuple):
    """The field that sizes a vocabulary, its value, and how many of its ids, counted from 0, text may hold."""

    field: str
    size: int
    of_text: int


def vocabulary(c: RunConfig) -> Vocabulary:
    """Returns the vocabulary of the family's model."""
    if c.family not in BACKBONE_FAMILIES:
        return Vocabulary("vae.vocab_size", c.vae.vocab_size, c.vae.vocab_size)
    size = c.backbone.vocab_size
    last_is_mask = c.family == "llada" and c.llada.mask_id == -1
    return Vocabulary("backbone.vocab_size", size, size - 1 if last_is_mask else size)


def mask_id(c: RunConfig) -> int:
    """Returns the id of family llada's masked token."""
    return c.backbone.vocab_size - 1 if c.llada.mask_id == -1 else c.llada.mask_id
