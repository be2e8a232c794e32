"""Key/value caches: fixed-size pytrees that go in and come out.

Axes: B batch, M cached positions, S new positions, H heads, K head channels.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KVCache(NamedTuple):
    """Keys and values of earlier positions of every layer: (layers, B, M, H, K)."""

    k: jax.Array
    v: jax.Array


def grow(cache: KVCache, length: int) -> KVCache:
    """Returns the cache with room for `length` positions, zeros behind what it holds."""
    room = [(0, 0), (0, 0), (0, length - cache.k.shape[2]), (0, 0), (0, 0)]
    return KVCache(jnp.pad(cache.k, room), jnp.pad(cache.v, room))


def append(cache: KVCache, fresh: KVCache, length_B: jax.Array) -> KVCache:
    """Writes `fresh` (layers, B, S, H, K) behind the first `length_B` positions of each row."""

    def row(old_MHK, new_SHK, start):
        return jax.lax.dynamic_update_slice_in_dim(old_MHK, new_SHK.astype(old_MHK.dtype), start, axis=0)

    rows = jax.vmap(jax.vmap(row), in_axes=(0, 0, None))
    return KVCache(rows(cache.k, fresh.k, length_B), rows(cache.v, fresh.v, length_B))
