"""Classifier-free guidance of the velocity (SPEC 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def guide(v_conditional: jax.Array, v_alone: jax.Array, scale: jax.Array | float) -> jax.Array:
    """v = v_u + s (v_c - v_u), fp32; scale broadcasts, s = 1 leaves v_c."""
    v_conditional, v_alone = v_conditional.astype(jnp.float32), v_alone.astype(jnp.float32)
    return v_alone + scale * (v_conditional - v_alone)
