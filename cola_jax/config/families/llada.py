"""Facts of family llada, masked diffusion."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cola_jax.config.families import backbone
from cola_jax.config.families.facts import CHOOSE, CHOOSE_SWITCH, CUT, Check, Facts, Vocabulary

if TYPE_CHECKING:
    from cola_jax.config.fields import RunConfig


def mask_id(c: RunConfig) -> int:
    """Returns the id of a masked token."""
    return c.backbone.vocab_size - 1 if c.llada.mask_id == -1 else c.llada.mask_id


def vocabulary(c: RunConfig) -> Vocabulary:
    """The backbone's vocabulary, minus the mask if that is its last id; texts that contain another mask id are refused."""
    size = c.backbone.vocab_size
    return Vocabulary("backbone.vocab_size", size, size - 1 if c.llada.mask_id == -1 else size)


def checks(c: RunConfig) -> list[Check]:
    """Checks of the backbone, of the mask's id, and of how the sampler divides the new tokens."""
    llada, sampling, new = c.llada, c.sampling.llada, c.sampling.max_new_tokens
    length, steps = sampling.block_length or new, sampling.steps or new
    blocks = max(new // length, 1)
    return [
        *backbone.checks(c),
        (
            llada.mask_id >= c.backbone.vocab_size,
            f"llada.mask_id={llada.mask_id} must be below backbone.vocab_size={c.backbone.vocab_size}, or -1",
        ),
        (c.backbone.vocab_size < 2, "backbone.vocab_size=1 has no spare id for the mask"),
        (
            new % length != 0,
            f"sampling.max_new_tokens={new} is not a multiple of sampling.llada.block_length={length}",
        ),
        (
            new % length == 0 and steps % blocks != 0,
            f"sampling.llada.steps={steps} is not a multiple of the {blocks} blocks of sampling.llada.block_length={length}",
        ),
    ]


FACTS = Facts(
    reads=("backbone.", "llada.", "sampling.llada.", *CUT, *CHOOSE),
    ignores=("compute.attention_chunks",),  # every query sees every key: no chunk has keys to skip
    switches=(CHOOSE_SWITCH,),
    checks=checks,
    vocabulary=vocabulary,
    tokens_of_block=backbone.tokens_of_block,
    attention=partial(backbone.attention, masked=False),
    split_by_tensor=backbone.split_by_tensor,
)
