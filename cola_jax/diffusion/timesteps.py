"""What the flow matching loss draws: times, and which latents of a block are given (SPEC 2).

Axes: NB blocks, S latents per block.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cola_jax.config import FlowConfig


def sample_times(flow: FlowConfig, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """t in (0, 1), fp32: sigmoid(N(loc, scale^2)) or uniform."""
    if flow.timestep_law == "uniform":
        return jax.random.uniform(key, shape)
    return jax.nn.sigmoid(flow.timestep_loc + flow.timestep_scale * jax.random.normal(key, shape))


def sample_known(flow: FlowConfig, key: jax.Array, blocks: int, block_size: int) -> jax.Array:
    """Booleans (NB, S): a chosen block knows its first k in [1, S - 1] latents, as the first block of a generation does."""
    chosen_key, length_key = jax.random.split(key)
    chosen = jax.random.bernoulli(chosen_key, flow.known_prefix_probability, (blocks, 1))
    length = jax.random.randint(length_key, (blocks, 1), 1, max(block_size, 2))
    return chosen & (jnp.arange(block_size) < length)
