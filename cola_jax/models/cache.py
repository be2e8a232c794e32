"""Key/value caches: fixed-size pytrees, passed in and returned, in the layout of attention's matmuls.

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


def to_cache_layout(k_BMHK: jax.Array, v_BMHK: jax.Array) -> KVCache:
    """Returns the cache of one layer with these keys and values."""
    return KVCache(jnp.einsum("bmhk->bhkm", k_BMHK), jnp.einsum("bmhk->bhmk", v_BMHK))


def slots(caches: Caches) -> int:
    """Returns M, the capacity in positions."""
    return jax.tree.leaves(caches, is_leaf=_is_cache)[0].k.shape[-1]


def grow(caches: Caches, length: int) -> Caches:
    """Returns the caches enlarged to `length` positions, padded with zeros."""

    def pad(x, axis):
        room = [(0, 0)] * x.ndim
        room[axis] = (0, length - x.shape[axis])
        return jnp.pad(x, room)

    return jax.tree.map(lambda cache: KVCache(pad(cache.k, -1), pad(cache.v, -2)), caches, is_leaf=_is_cache)


def append(caches: Caches, fresh: Caches, length_B: jax.Array) -> Caches:
    """Writes `fresh`, the caches of S positions, after the first `length_B` positions of each row."""

    def write(old, new, axis):
        row = lambda old, new, start: jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis)
        batch = old.ndim - 4
        return jax.vmap(row, in_axes=(batch, batch, 0), out_axes=batch)(old, new, length_B)

    both = lambda old, new: KVCache(write(old.k, new.k, -1), write(old.v, new.v, -2))
    return jax.tree.map(both, caches, fresh, is_leaf=_is_cache)


def append_layer(
    caches: Caches, layer: int | jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, length_B: jax.Array
) -> tuple[Caches, KVCache]:
    """Writes keys and values of S positions after the first `length_B` positions of each row of one layer.

    The cache is indexed in its own layout: transposing it would make the compiler copy it.

    Args:
      layer: a Python integer if layers are a list, an int32 scalar if they are stacked.

    Returns:
      The caches of all layers, and that layer's.
    """
    rows, places = jnp.arange(len(length_B))[:, None], length_B[:, None] + jnp.arange(k_BSHK.shape[1])

    def write(cache, *of_layer):
        put = lambda x, index, new: x.at[(*of_layer, *index)].set(
            new.astype(x.dtype), mode="promise_in_bounds", indices_are_sorted=True, unique_indices=True
        )
        k = put(cache.k, (rows, slice(None), slice(None), places), k_BSHK)
        return KVCache(k, put(cache.v, (rows, slice(None), places), v_BSHK))

    if isinstance(caches, list):
        written = write(caches[layer])
        return [*caches[:layer], written, *caches[layer + 1 :]], written
    caches = write(caches, layer)
    return caches, jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False), caches)


def _is_cache(x: Any) -> bool:
    return isinstance(x, KVCache)
