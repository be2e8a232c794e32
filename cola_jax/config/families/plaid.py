"""Facts of family plaid, diffusion of learnt token embeddings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cola_jax.config.families import backbone
from cola_jax.config.families.facts import CUT, Check, Facts

if TYPE_CHECKING:
    from cola_jax.config.fields import RunConfig


def checks(c: RunConfig) -> list[Check]:
    """Checks of the backbone, and of the order of the noise schedule's ends."""
    low, high = c.plaid.gamma_0, c.plaid.gamma_1
    return [*backbone.checks(c), (low >= high, f"plaid.gamma_0={low} must be below gamma_1={high}")]


FACTS = Facts(
    reads=("backbone.", "plaid.", "sampling.plaid.", *CUT),
    ignores=(
        "compute.attention_chunks",
        "backbone.tie_embeddings",
    ),  # no chunk of keys to skip; the table has E channels
    checks=checks,
    vocabulary=backbone.vocabulary,
    tokens_of_block=backbone.tokens_of_block,
    attention=partial(backbone.attention, masked=False),
    split_by_tensor=backbone.split_by_tensor,
)
