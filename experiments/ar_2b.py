"""The autoregressive baseline of cola_2b: 27 layers of the LLaMA form, 1.81 B parameters without embeddings, 2.22 B with.

cola-jax train --config ar_2b:PREPARED --workdir W

PREPARED: the folder that cola_2b trains on, made by `cola-jax prepare`. Corpus and recipe are those of
_matched_base.py, sizes those of SPEC 5. The paper's axis counts the same 6 x 1.8e9 FLOPs per token as for cola_2b.
"""

from cola_jax import config
from experiments._matched_base import matched


def get_config(arg: str | None = None):
    """arg: PREPARED."""
    if not arg:
        raise config.ConfigError("ar_2b: give the prepared corpus, ar_2b:PREPARED")
    return matched("ar", arg)
