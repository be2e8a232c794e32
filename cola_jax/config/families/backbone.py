"""Facts of the LLaMA-form backbone, which the families ar, llada and plaid share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cola_jax.config.families.facts import Attention, Check, Vocabulary

if TYPE_CHECKING:
    from cola_jax.config.fields import RunConfig


def checks(c: RunConfig) -> list[Check]:
    """Sizes of the backbone that must fit each other."""
    net = c.backbone
    return [
        (
            net.dim % (2 * net.num_heads) != 0,
            f"backbone.dim={net.dim} is not a multiple of twice backbone.num_heads={net.num_heads}: RoPE needs pairs",
        ),
        (
            net.num_heads % net.kv_heads != 0,
            f"backbone.num_heads={net.num_heads} is not a multiple of backbone.kv_heads={net.kv_heads}",
        ),
    ]


def vocabulary(c: RunConfig) -> Vocabulary:
    return Vocabulary("backbone.vocab_size", c.backbone.vocab_size, c.backbone.vocab_size)


def tokens_of_block(c: RunConfig) -> int:
    return 1


def attention(c: RunConfig, masked: bool) -> tuple[Attention, ...]:
    head_dim = c.backbone.dim // c.backbone.num_heads
    return (Attention("the backbone", "tokens", c.train.sequence_length, 1, head_dim, masked),)


def split_by_tensor(c: RunConfig) -> dict[str, int]:
    return {"backbone.kv_heads": c.backbone.kv_heads, "backbone.ffn_dim": c.backbone.ffn_dim}
