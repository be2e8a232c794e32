"""Traces of the denoising of blocks: the solver's states, and the text that each decodes to.

Axes: NB blocks, T solver steps, S latents per block, C latent channels, P tokens per latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np

from cola_jax.config import ConfigError, RunConfig
from cola_jax.families import FAMILIES, vae_terms
from cola_jax.generate import blocks as block_loop
from cola_jax.generate.keys import fold_rows
from cola_jax.generate.prompts import pad_prompts


class Trace(NamedTuple):
    """States (NB, T + 1, S, C) fp32, the noise first, and the tokens (NB, T, S P) that each later state decodes to."""

    states: np.ndarray
    tokens: np.ndarray


def denoising_trace(
    cfg: RunConfig, params: Any, prompt: Sequence[int], blocks: int, *, seed: int, pad_id: int
) -> Trace:
    """Generates `blocks` blocks as family cola does for sample 0 of `seed`, one solver step at a time.

    The last states and tokens of each block are those of `generate`. The first block repeats the prompt's unfinished one.

    Raises:
      ConfigError: if sampling.first_block is repaint, whose steps depend on their index, or the model is not cola.
      PromptError: see `pad_prompts`.
    """
    if "dit" not in FAMILIES[cfg.family].groups:
        raise ConfigError(f"family={cfg.family!r} does not denoise blocks; a trace needs cola")
    if cfg.sampling.first_block == "repaint":
        raise ConfigError("sampling.first_block='repaint' cannot be traced; clean, left_pad and right_pad can")
    size = cfg.dit.block_size
    batch = pad_prompts(
        [prompt], patch_size=cfg.vae.patch_size, block_size=size, pad_id=pad_id, vocab_size=cfg.vae.vocab_size,
        first_block=cfg.sampling.first_block,
    )  # fmt: skip
    program, values = block_loop.program_of(cfg), block_loop.values_of(cfg.sampling, 1)
    prepared = block_loop.prepare(program, params)
    progress, first = block_loop.read_prompt(program.networks, params, batch.tokens, batch.known, blocks)
    row_keys = jax.random.fold_in(jax.random.PRNGKey(seed), 0)[None]
    states, tokens = [], []
    for index in range(blocks):
        keys = fold_rows(row_keys, index)
        opening = first if index == 0 and (batch.known % size).any() else None
        z1 = vae_terms.normal(keys, (size, cfg.vae.latent_dim))
        visited, entries = _trace_block(program, params, prepared, values, progress, opening, z1, keys)
        if index < blocks - 1:
            progress = block_loop.commit(progress, visited[-1], entries)
        states.append(np.stack([np.asarray(z1[0])] + [np.asarray(block.latents[0]) for block in visited]))
        tokens.append(np.stack([np.asarray(block.tokens[0]) for block in visited]))
    return Trace(np.stack(states), np.stack(tokens))


def _trace_block(
    program, params, prepared, values, progress, first, z_BSC, keys_B
) -> tuple[list[block_loop.Block], Any]:
    """Returns the block after every solver step, and the cache entries of the last."""
    visited = []
    for index in range(program.steps):
        this = slice(index, index + 1)
        step = prepared._replace(steps=jax.tree.map(itemgetter(this), prepared.steps))
        block, entries = block_loop.write_block(program, params, step, values, progress, first, z_BSC, keys_B)
        visited.append(block)
        z_BSC = block.latents
    return visited, entries
