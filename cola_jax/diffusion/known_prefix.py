"""The known prefix of a block in training (SPEC 2). Axes: NB blocks, S latents per block."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cola_jax.config import FlowConfig


def sample_known(flow: FlowConfig, key: jax.Array, blocks: int, block_size: int) -> jax.Array:
    """Booleans (NB, S): the first k in [1, S - 1] latents of a chosen block are known, as in generation."""
    chosen_key, length_key = jax.random.split(key)
    chosen = jax.random.bernoulli(chosen_key, flow.known_prefix_probability, (blocks, 1))
    length = jax.random.randint(length_key, (blocks, 1), 1, max(block_size, 2))
    return chosen & (jnp.arange(block_size) < length)
