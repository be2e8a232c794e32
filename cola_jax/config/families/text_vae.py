"""Facts of family text_vae, stage 1; and those of the VAE that family cola shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cola_jax.config.families.facts import Attention, Check, Facts, Switch, Vocabulary

if TYPE_CHECKING:
    from cola_jax.config.fields import RunConfig

VAE_GROUPS = ("encoder", "decoder")
VAE_SWITCHES = (
    Switch(("vae.encoder_last_ln", "vae.fixed_logsnr", "objective.kl_weight"), "vae.use_variation", lambda c:
        c.vae.use_variation),
    Switch(("vae.block.qk_norm_affine",), "vae.block.qk_norm", lambda c: c.vae.block.qk_norm),
)  # fmt: skip


def checks(c: RunConfig) -> list[Check]:
    """Sizes of the VAE that must fit each other."""
    vae, heads = c.vae, c.vae.num_heads
    return [
        (vae.dim % heads != 0, f"vae.dim={vae.dim} is not a multiple of vae.num_heads={vae.num_heads}"),
        ((vae.dim // heads) % 2 != 0, f"vae.dim/vae.num_heads={vae.dim // heads} must be even for RoPE"),
        (
            heads % vae.block.shared_heads_kv != 0,
            f"vae.num_heads={heads} is not a multiple of vae.block.shared_heads_kv={vae.block.shared_heads_kv}",
        ),
        (
            vae.block.activation == "swiglu" and vae.ffn_dim % 2 != 0,
            f"vae.ffn_dim={vae.ffn_dim} must be even for swiglu",
        ),
        (
            vae.fixed_logsnr is not None and not vae.encoder_last_ln and c.train.accumulate > 1,
            "vae.fixed_logsnr without vae.encoder_last_ln averages over the batch, which train.accumulate>1 splits",
        ),
    ]


def vocabulary(c: RunConfig) -> Vocabulary:
    return Vocabulary("vae.vocab_size", c.vae.vocab_size, c.vae.vocab_size)


def latents_of_row(c: RunConfig) -> int:
    return c.train.sequence_length // c.vae.patch_size


def attention(c: RunConfig) -> tuple[Attention, ...]:
    vae = c.vae
    return (Attention("the VAE", "latents", latents_of_row(c), vae.block_size, vae.dim // vae.num_heads, True),)


def split_by_tensor(c: RunConfig) -> dict[str, int]:
    vae = c.vae
    heads = vae.num_heads // vae.block.shared_heads_kv
    return {"vae.num_heads / vae.block.shared_heads_kv": heads, "vae.ffn_dim": vae.ffn_dim}


FACTS = Facts(
    reads=("vae.", "objective.kl_weight", "objective.mask_weight", "objective.mask_rate"),
    ignores=("vae.latent_shift", "vae.latent_scale"),  # applied to latents that enter the DiT
    switches=(
        *VAE_SWITCHES,
        Switch(("objective.mask_rate",), "objective.mask_weight", lambda c: c.objective.mask_weight > 0),
    ),
    checks=checks,
    vocabulary=vocabulary,
    tokens_of_block=lambda c: c.vae.patch_size * c.vae.block_size,
    attention=attention,
    split_by_tensor=split_by_tensor,
)
