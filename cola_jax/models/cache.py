"""Key/value caches: fixed-size pytrees that go in and come out, laid out as attention multiplies them.

Axes: B batch, M cached positions, S new positions, H heads, K head channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class KVCache(NamedTuple):
    """Keys of earlier positions as columns, (B, H, K, M), and their values as rows, (B, H, M, K)."""

    k: jax.Array
    v: jax.Array


Caches = KVCache | list[KVCache]  # of all layers: stacked on a leading axis if they are scanned, else a list


def lay_down(k_BMHK: jax.Array, v_BMHK: jax.Array) -> KVCache:
    """Returns the cache of one layer that holds these keys and values."""
    return KVCache(jnp.einsum("bmhk->bhkm", k_BMHK), jnp.einsum("bmhk->bhmk", v_BMHK))


def slots(caches: Caches) -> int:
    """Returns M, how many positions there is room for."""
    return jax.tree.leaves(caches, is_leaf=_is_cache)[0].k.shape[-1]


def grow(caches: Caches, length: int) -> Caches:
    """Returns the caches with room for `length` positions, zeros behind what they hold."""

    def pad(x, axis):
        room = [(0, 0)] * x.ndim
        room[axis] = (0, length - x.shape[axis])
        return jnp.pad(x, room)

    return jax.tree.map(lambda cache: KVCache(pad(cache.k, -1), pad(cache.v, -2)), caches, is_leaf=_is_cache)


def append(caches: Caches, fresh: Caches, length_B: jax.Array) -> Caches:
    """Writes `fresh`, the caches of S positions, behind the first `length_B` positions of each row."""

    def write(old, new, axis):
        row = lambda old, new, start: jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis)
        batch = old.ndim - 4
        return jax.vmap(row, in_axes=(batch, batch, 0), out_axes=batch)(old, new, length_B)

    both = lambda old, new: KVCache(write(old.k, new.k, -1), write(old.v, new.v, -2))
    return jax.tree.map(both, caches, fresh, is_leaf=_is_cache)


def _is_cache(x: Any) -> bool:
    return isinstance(x, KVCache)
