"""Cola DLM as published: Text VAE 0.5 B, DiT 1.83 B, the recipe of Tables 8 and 9.

cola-jax train --config cola_2b:vae,PREPARED --workdir W1
cola-jax train --config cola_2b:joint,PREPARED,W1 --workdir W2
cola-jax compile --config cola_2b:joint,PREPARED,W1,v5p:2x2x4 --topology v5p:2x2x4

PREPARED: a folder written by `cola-jax prepare` with a tokenizer of at most 100,278 tokens. A machine of _machines.py,
as the last part of the argument, sets mesh and microbatches. The paper's axis counts 6 x 1.8e9 FLOPs per token: 7.79
EFLOPs per thousand steps of 720,896 tokens, 2000 EFLOPs at 256.9 thousand steps; by our count the joint stage takes
18.8 GFLOPs per token.
"""

from cola_jax import config
from experiments._arguments import parts_of
from experiments._machines import place
from experiments._matched_base import matched


def get_config(arg: str | None = None):
    """arg: "vae,PREPARED[,MACHINE]" or "joint,PREPARED,STAGE_1_WORKDIR[,MACHINE]"."""
    usage = "cola_2b:vae,PREPARED[,MACHINE] or cola_2b:joint,PREPARED,STAGE_1_WORKDIR[,MACHINE]"
    if (arg or "").startswith("vae"):
        _, prepared, machine = parts_of(usage, arg, 2, 3)
        return place(matched("text_vae", prepared), machine)
    stage, prepared, vae_from, machine = parts_of(usage, arg, 2, 4)
    if stage != "joint":
        raise config.ConfigError(f"cola_2b:{arg}: the stage is vae or joint: give {usage}")
    return place(joint(matched("cola", prepared), vae_from), machine)


def joint(c, vae_from: str):
    """Stage 2 from a stage 1 workdir, or from scratch."""
    config.start_from(c, vae_from)
    c.objective.update(reference_weight=0.1 if vae_from else 0.0)  # ours: see tinyworld.py for what happens without
    return c
