"""Logits to tokens (SPEC 3.3). Axes: B batch, T positions, V vocabulary."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cola_jax.config import SamplingConfig


def choose(logits_BTV: jax.Array, seen_BV: jax.Array, keys_B: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """Returns token ids (B, T) int32.

    Args:
      seen_BV: tokens already decoded, on which the repetition penalty falls.
      keys_B: one key a row, read only where temperature > 0.
    """
    logits = penalize(logits_BTV.astype(jnp.float32), seen_BV, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = keep_top_p(keep_top_k(logits / sampling.temperature, sampling.top_k), sampling.top_p)
    return jax.vmap(lambda key, row: jax.random.categorical(key, row, axis=-1))(keys_B, logits).astype(jnp.int32)


def penalize(logits_BTV: jax.Array, seen_BV: jax.Array, penalty: float) -> jax.Array:
    """Divides positive and multiplies negative logits of seen tokens by `penalty`."""
    if penalty == 1.0:
        return logits_BTV
    penalized = jnp.where(logits_BTV > 0, logits_BTV / penalty, logits_BTV * penalty)
    return jnp.where(seen_BV[:, None, :], penalized, logits_BTV)


def keep_top_k(logits_BTV: jax.Array, k: int) -> jax.Array:
    """Masks all but the k largest logits; k = 0 keeps all."""
    if k <= 0 or k >= logits_BTV.shape[-1]:
        return logits_BTV
    least = jax.lax.top_k(logits_BTV, k)[0][..., -1:]
    return jnp.where(logits_BTV >= least, logits_BTV, -jnp.inf)


def keep_top_p(logits_BTV: jax.Array, p: float) -> jax.Array:
    """Masks all but the smallest set of the likeliest tokens whose probabilities reach p; the likeliest one stays."""
    if p >= 1.0:
        return logits_BTV
    ordered = jnp.sort(logits_BTV, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(ordered, axis=-1)
    kept = jnp.sum(before < p, axis=-1, keepdims=True)
    least = jnp.take_along_axis(ordered, jnp.maximum(kept - 1, 0), axis=-1)
    return jnp.where(logits_BTV >= least, logits_BTV, -jnp.inf)
