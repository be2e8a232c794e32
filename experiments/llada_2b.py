"""The masked diffusion baseline of cola_2b: the network of ar_2b without its causal mask.

cola-jax train --config llada_2b:PREPARED --workdir W

PREPARED: the folder that cola_2b trains on, made by `cola-jax prepare`. The mask is the last of the 100,278 ids, so the
tokenizer has at most 100,277; with one that has an id unused by text, set --config.llada.mask_id=ID. Generation uses
one pass per token, in one block, low-confidence remasking, no guidance. The paper's axis counts the same
6 x 1.8e9 FLOPs per token as for cola_2b.
"""

from cola_jax import config
from experiments._matched_base import matched


def get_config(arg: str | None = None):
    """arg: PREPARED."""
    if not arg:
        raise config.ConfigError("llada_2b: give the prepared corpus, llada_2b:PREPARED")
    c = matched("llada", arg)
    c.sampling.repetition_penalty = 1.0  # as published, LLaDA's sampler has none
    return c
