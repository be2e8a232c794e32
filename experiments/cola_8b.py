"""Beyond the paper: a DiT of 8.5 B and a Text VAE of 0.9 B on 1024 chips.

cola-jax compile --config cola_8b:joint,PREPARED,W1 --topology v5p:8x8x16
cola-jax train --config cola_8b:vae,PREPARED --workdir W1
cola-jax train --config cola_8b:joint,PREPARED,W1 --workdir W2

PREPARED: a folder written by `cola-jax prepare` in rows of 1024 tokens. 4,194,304 tokens per step. Sizes, batch and
learning rate are chosen here: width and depth grow as in the LLaMA family, heads keep 128 channels, blocks their 16 latents.
"""

from cola_jax import config
from experiments._arguments import parts_of
from experiments._matched_base import matched
from experiments.cola_2b import joint


def get_config(arg: str | None = None):
    """arg: "vae,PREPARED" or "joint,PREPARED,STAGE_1_WORKDIR"."""
    usage = "cola_8b:vae,PREPARED or cola_8b:joint,PREPARED,STAGE_1_WORKDIR"
    stage, prepared, vae_from = parts_of(usage, arg, 2, 3)
    if stage not in ("vae", "joint") or (stage == "vae" and vae_from):
        raise config.ConfigError(f"cola_8b:{arg}: give {usage}")
    c = matched("text_vae" if stage == "vae" else "cola", prepared)
    c.vae.update(dim=2048, ffn_dim=8192, num_heads=16, encoder_blocks=6, decoder_blocks=6)
    c.train.update(batch_size=4096, sequence_length=1024, accumulate=1)
    c.mesh.update(data=1, fsdp=-1)
    if stage == "vae":
        return c
    c.dit.update(dim=4096, num_layers=28, num_heads=32)
    return joint(c, vae_from)
