"""Plaid's learnt noise schedule (BASELINES 3): gamma(t) = gamma_0 + (gamma_1 - gamma_0) g(t), gamma = -log SNR.

g is a monotone network with one hidden layer of positive weights, with g(0) = 0 and g(1) = 1.
alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma). Axes: B times.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def init(rng: jax.Array, lowest: float, highest: float, width: int) -> dict[str, jax.Array]:
    """Returns initial parameters: gamma_0, gamma_1 (scalars) and the three vectors (width,) of g."""
    inner, bias, outer = (jax.random.normal(key, (width,)) for key in jax.random.split(rng, 3))
    return {
        "lowest": jnp.float32(lowest),
        "highest": jnp.float32(highest),
        "inner": inner,
        "bias": bias,
        "outer": outer,
    }


def shape_of(params: Any, t_B: jax.Array) -> jax.Array:
    """Returns g(t) and g'(t), (B, 2) fp32."""
    raw = lambda t: jnp.sum(
        jax.nn.softplus(params["outer"]) * jax.nn.sigmoid(jax.nn.softplus(params["inner"]) * t + params["bias"])
    )
    start, end = raw(0.0), raw(1.0)
    g = lambda t: (raw(t) - start) / (end - start)
    return jnp.stack(jax.vmap(jax.value_and_grad(g))(t_B), axis=-1)


def gamma_of(params: Any, shape_B2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns gamma and its derivative by t, each (B,)."""
    spread = params["highest"] - params["lowest"]
    return params["lowest"] + spread * shape_B2[:, 0], spread * shape_B2[:, 1]


def scales(gamma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns alpha and sigma."""
    return jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
