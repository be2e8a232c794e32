"""The density of a flow by the instantaneous change of variables (SPEC 4).

[z, l]' = [v, div v] from t = 0 (data) to t = 1 (noise); log p(z_0) = log N(z_1; 0, I) + l_1.
Axes: B batch, N positions, S positions per block, C channels, M probes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cola_jax.diffusion import solvers

LOG_2PI = 1.8378770664093453


class Probes(NamedTuple):
    """Directions (M, B or 1, N, C); the sum of e . (dv/dz) e over them, times `weight`, is the divergence."""

    directions: jax.Array
    weight: float


def hutchinson(keys_B: jax.Array, length: int, channels: int) -> Probes:
    """One direction of random signs per row: the divergence in expectation. It is fixed during a solve."""
    draw = lambda key: jax.random.rademacher(key, (length, channels), jnp.float32)
    return Probes(jax.vmap(draw)(keys_B)[None], 1.0)


def exact(length: int, channels: int, block_size: int) -> Probes:
    """Every direction of a block, in all blocks at once: the divergence if blocks do not attend to each other. M = S C."""
    place = jnp.arange(length) % block_size
    within = jax.nn.one_hot(place, block_size)[None, :, :, None]  # (1, N, S, 1)
    channel = jnp.eye(channels)[:, None, None, :]  # (C, 1, 1, C)
    directions = jnp.moveaxis(within * channel, 2, 0)  # (S, C, N, C)
    return Probes(directions.reshape(block_size * channels, 1, length, channels), 1.0)


def log_density(
    velocity: Callable[[jax.Array, jax.Array], jax.Array], z0_BNC: jax.Array, probes: Probes, steps: int, solver: str
) -> jax.Array:
    """Returns log p(z_0) in nats, position by position (B, N) fp32: the sum over the positions of a block or row is its
    log density.

    Args:
      velocity: (z_t, t) -> v, t a scalar.
      steps, solver: as `solvers.step` has them, here from t = 0 up to 1.
    """
    times = 1.0 - solvers.evaluation_times(solver, steps)

    def rate(state, t):
        z = state[..., :-1]
        v, along = jax.linearize(lambda z: velocity(z, t), z)
        parts = jax.lax.map(lambda e: jnp.sum(e * along(jnp.broadcast_to(e, z.shape)), axis=-1), probes.directions)
        return jnp.concatenate([v, probes.weight * jnp.sum(parts, axis=0)[..., None]], axis=-1)

    def body(state, at):
        return solvers.step(solver, rate, state, at, -1.0 / steps), None

    start = jnp.concatenate([z0_BNC, jnp.zeros_like(z0_BNC[..., :1])], axis=-1).astype(jnp.float32)
    end, _ = jax.lax.scan(body, start, times)
    return end[..., -1] - 0.5 * jnp.sum(jnp.square(end[..., :-1]) + LOG_2PI, axis=-1)
