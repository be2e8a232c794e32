"""The embedding diffusion baseline of cola_2b: Plaid on the blocks of ar_2b and llada_2b, trained by the shared recipe.

cola-jax train --config plaid_2b:PREPARED --workdir W

PREPARED: the folder that cola_2b trains on, made by `cola-jax prepare`. The core has the 1,811,939,328 matrix parameters of
ar_2b; embeddings have 16 channels. Plaid's own recipe (AdamW 0.9, 0.99, learning rate 1.4e-3, 1e-2 for embeddings and
schedule, linear decay) is not used: everything is the matched base's. The first pass of self-conditioning makes a step
33 % more expensive than llada_2b's.
"""

from cola_jax import config
from experiments._matched_base import matched


def get_config(arg: str | None = None):
    """arg: PREPARED."""
    if not arg:
        raise config.ConfigError("plaid_2b: give the prepared corpus, plaid_2b:PREPARED")
    return matched("plaid", arg)
