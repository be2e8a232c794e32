"""Solvers of dz/dt = v from t = 1 (noise) to t = 0 (data) in equal steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Velocity = Callable[[jax.Array, Any], jax.Array]

EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2}  # velocity evaluations per step


def evaluation_times(solver: str, steps: int) -> jax.Array:
    """Times at which a solver evaluates the velocity, (steps, EVALUATIONS[solver]) fp32."""
    start = 1.0 - jnp.arange(steps, dtype=jnp.float32) / steps
    offsets = {"euler": [0.0], "midpoint": [0.0, 0.5 / steps], "heun": [0.0, 1.0 / steps]}[solver]
    return jnp.maximum(start[:, None] - jnp.asarray(offsets, jnp.float32), 0.0)


def step(solver: str, velocity: Velocity, z: jax.Array, inputs: Any, dt: float | jax.Array) -> jax.Array:
    """One step down by dt, in fp32.

    Args:
      velocity: (z, input) -> v, `input` being the inputs of one evaluation time.
      inputs: pytree whose leaves have the step's evaluations as leading axis, in the order of `evaluation_times`.
    """

    def at(z, index):
        return velocity(z, jax.tree.map(lambda leaf: leaf[index], inputs)).astype(jnp.float32)

    first = at(z, 0)
    match solver:
        case "euler":
            return z - dt * first
        case "midpoint":
            return z - dt * at(z - 0.5 * dt * first, 1)
        case "heun":
            return z - 0.5 * dt * (first + at(z - dt * first, 1))
    raise ValueError(f"solver {solver!r} is not one of {', '.join(EVALUATIONS)}")
