"""Facts of family ar, the autoregressive baseline."""

from __future__ import annotations

from functools import partial

from cola_jax.config.families import backbone
from cola_jax.config.families.facts import CHOOSE, CHOOSE_SWITCH, CUT, Facts

FACTS = Facts(
    reads=("backbone.", *CUT, *CHOOSE),
    switches=(CHOOSE_SWITCH,),
    checks=backbone.checks,
    vocabulary=backbone.vocabulary,
    tokens_of_block=backbone.tokens_of_block,
    attention=partial(backbone.attention, masked=True),
    split_by_tensor=backbone.split_by_tensor,
)
