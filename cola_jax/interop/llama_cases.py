"""The cases of the Hugging Face LLaMA form (SPEC 9): logits of the same weights with and without the causal mask."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from cola_jax.config import ComputeConfig, RunConfig
from cola_jax.interop import llama
from cola_jax.interop.cases import Case, Cases, compare
from cola_jax.models import build
from cola_jax.models.backbone import bidirectional, causal

BOUND = 1e-4  # absolute, fp32
PATTERNS = {"logits_causal": causal, "logits_bidirectional": bidirectional}


def check(folder: Path, cases: Cases, dtype: str) -> list[Case]:
    """Returns the result of every case in `cases`.

    Raises:
      LlamaFormatError: if the folder cannot be read. ReleasedFormatError: if a case has no ids.
    """
    cases.check_ranks({"ids": 2})
    config = llama.read_config(folder)
    params = jax.tree.map(jnp.asarray, llama.read(folder, config))
    net = build.backbone(RunConfig(backbone=config, compute=ComputeConfig(dtype=dtype)))
    tokens = jnp.asarray(cases["ids"], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    bound = BOUND if dtype == "float32" else None
    logits = lambda pattern: net.apply({"params": params["backbone"]}, tokens, positions, None, pattern)
    return [compare(name, logits(pattern), cases[name], bound) for name, pattern in PATTERNS.items() if name in cases]
