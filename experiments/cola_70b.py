"""Beyond the paper: a DiT of 70 B and a Text VAE of 0.9 B on 1024 chips and more.

cola-jax compile --config cola_70b:joint,PREPARED,W1 --topology v5p:8x8x16
cola-jax train --config cola_70b:joint,PREPARED,W1 --workdir W2

W1: a stage 1 workdir of cola_8b, whose VAE it shares. PREPARED: a folder written by `cola-jax prepare` in rows of 2048
tokens. 4,194,304 tokens per step, heads and feed-forwards sharded over 8 chips, one dimension of the torus, parameters
over all. Moments are bf16. By count, the matmul outputs saved by remat minimal require eight microbatches; remat full
would require fewer, and compute every forward pass twice. Sizes, batch and learning rate are chosen here.
"""

from cola_jax import config
from experiments._arguments import parts_of
from experiments._matched_base import matched
from experiments.cola_2b import joint


def get_config(arg: str | None = None):
    """arg: "joint,PREPARED,STAGE_1_WORKDIR"."""
    usage = "cola_70b:joint,PREPARED,STAGE_1_WORKDIR of cola_8b"
    stage, prepared, vae_from = parts_of(usage, arg, 2, 3)
    if stage != "joint":
        raise config.ConfigError(f"cola_70b:{arg}: give {usage}")
    c = matched("cola", prepared)
    c.vae.update(dim=2048, ffn_dim=8192, num_heads=16, encoder_blocks=6, decoder_blocks=6)
    c.dit.update(dim=8192, num_layers=58, num_heads=64)
    c.train.update(batch_size=2048, sequence_length=2048, accumulate=8)
    c.mesh.update(data=1, fsdp=-1, tensor=8)
    c.optimizer.update(moment_dtype="bfloat16", learning_rate=1e-4)
    return joint(c, vae_from)
