"""The distribution of the times t of the flow matching loss (SPEC 2)."""

from __future__ import annotations

import jax

from cola_jax.config import FlowConfig


def sample_times(flow: FlowConfig, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """t in (0, 1), fp32: sigmoid(N(loc, scale^2)) or uniform."""
    if flow.timestep_law == "uniform":
        return jax.random.uniform(key, shape)
    return jax.nn.sigmoid(flow.timestep_loc + flow.timestep_scale * jax.random.normal(key, shape))
