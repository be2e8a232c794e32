"""The straight path between data and noise (SPEC 1): z_t = (1 - t) z0 + t z1, target u = z1 - z0."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def interpolate(z0: jax.Array, z1: jax.Array, t: jax.Array) -> jax.Array:
    """z_t of data z0 and noise z1 at time t, which broadcasts against them."""
    return (1.0 - t) * z0 + t * z1


def velocity_target(z0: jax.Array, z1: jax.Array) -> jax.Array:
    """u = z1 - z0."""
    return z1 - z0


def renoise(z_s: jax.Array, s: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Noises z_s to time t > s: the Gaussian transition whose marginals are those of the path.

    z_t = a z_s + sqrt(t^2 - a^2 s^2) noise with a = (1 - t) / (1 - s).
    """
    a = (1.0 - t) / (1.0 - s)
    return a * z_s + jnp.sqrt(jnp.maximum(t**2 - (a * s) ** 2, 0.0)) * noise
