"""A small model of the English documentation of the running Python; no download.

cola-jax train --config pydocs:vae --workdir runs/pydocs/vae
cola-jax train --config pydocs:joint,runs/pydocs/vae --workdir runs/pydocs/joint
cola-jax generate --workdir runs/pydocs/joint --prompt "The function returns"

Sizes and recipe of own_text.
"""

from cola_jax import config
from experiments._arguments import parts_of
from experiments.own_text import small


def get_config(arg: str | None = None):
    """arg: "vae", or "joint,STAGE_1_WORKDIR"; "joint" alone starts from scratch."""
    stage, vae_from = parts_of("pydocs:vae or pydocs:joint,STAGE_1_WORKDIR", arg or "joint", 1, 2)
    if stage not in ("vae", "joint"):
        raise config.ConfigError(f"pydocs:{arg}: the argument is vae, joint or joint,STAGE_1_WORKDIR")
    if stage == "vae" and vae_from:
        raise config.ConfigError(f"pydocs:{arg}: stage 1 starts from random parameters, leave out {vae_from!r}")
    c = config.base()
    c.data.sources[0].update(kind="pydocs")
    return small(c, stage, vae_from)
