"""Plaid's learnt noise schedule (BASELINES 3): gamma(t) = gamma_0 + (gamma_1 - gamma_0) g(t), gamma = -log SNR.

What is learnt of gamma_0 and gamma_1 is their distance from the config's. Weight decay then pulls them to where they began:
to 0, a signal as strong as its noise, it would make the data unreadable at t = 0 and readable at t = 1.
g is monotone, from a hidden layer of positive weights, with g(0) = 0 and g(1) = 1.
alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma). Axes: B times.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cola_jax.config import PlaidConfig


def init(rng: jax.Array, width: int) -> dict[str, jax.Array]:
    """Returns new parameters: the shifts of gamma_0 and gamma_1 (scalars), 0, and the three vectors (width,) of g."""
    inner, bias, outer = (jax.random.normal(key, (width,)) for key in jax.random.split(rng, 3))
    return {
        "lowest_shift": jnp.zeros((), jnp.float32),
        "highest_shift": jnp.zeros((), jnp.float32),
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


def ends_of(params: Any, plaid: PlaidConfig) -> tuple[jax.Array, jax.Array]:
    """Returns gamma_0 and gamma_1, scalars."""
    return plaid.gamma_0 + params["lowest_shift"], plaid.gamma_1 + params["highest_shift"]


def gamma_of(params: Any, plaid: PlaidConfig, shape_B2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns gamma and its derivative by t, each (B,)."""
    lowest, highest = ends_of(params, plaid)
    return lowest + (highest - lowest) * shape_B2[:, 0], (highest - lowest) * shape_B2[:, 1]


def scales(gamma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns alpha and sigma."""
    return jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
