"""Cola DLM as published: Text VAE 0.5 B, DiT 1.83 B, the recipe of Tables 8 and 9.

cola-jax train --config cola_2b:vae,PREPARED --workdir W1
cola-jax train --config cola_2b:joint,PREPARED,W1 --workdir W2
cola-jax compile --config cola_2b:joint,PREPARED,W1,v5p:2x2x4 --topology v5p:2x2x4

PREPARED: a folder written by `cola-jax prepare` with a tokenizer of at most 100,278 tokens. A machine of _machines.py, as the
last part of the argument, sets mesh and microbatches. The paper's axis counts 6 x 1.8e9 FLOPs a token: 7.79 EFLOPs a thousand
steps of 720,896 tokens, 2000 EFLOPs at 256.9 thousand steps; by our count the joint stage takes 18.8 GFLOPs a token.
"""

from cola_jax import config
from experiments._machines import place
from experiments._matched_base import matched


def get_config(arg: str | None = None):
    """arg: "vae,PREPARED[,MACHINE]" or "joint,PREPARED,STAGE_1_WORKDIR[,MACHINE]"."""
    stage, prepared, *rest = [*(arg or "").split(","), "", ""]
    if stage not in ("vae", "joint") or not prepared:
        raise config.ConfigError(f"cola_2b:{arg}: give cola_2b:vae,PREPARED or cola_2b:joint,PREPARED,STAGE_1_WORKDIR")
    c = matched("text_vae" if stage == "vae" else "cola", prepared)
    if stage == "vae":
        return place(c, rest[0])
    return place(joint(c, rest[0]), rest[1] if len(rest) > 1 else "")


def joint(c, vae_from: str):
    """Stage 2 from a stage 1 workdir, or from scratch."""
    c.objective.update(vae_from=vae_from, latent_policy="joint" if vae_from else "scratch")
    c.objective.update(reference_weight=0.1 if vae_from else 0.0)  # ours: see tinyworld.py for what happens without
    return c
