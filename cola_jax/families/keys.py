"""Keys by name, row and sample: what is drawn depends on these alone, never on the rest of a batch."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def key_of(rng: jax.Array, name: str) -> jax.Array:
    """Returns the key of a named use of `rng`."""
    return jax.random.fold_in(rng, zlib.crc32(name.encode()))


def key_for(seed: int, use: str, index: Any) -> jax.Array:
    """Returns the key of one use of a run at one index: fold_in(fold_in(PRNGKey(seed), use), index)."""
    return jax.random.fold_in(key_of(jax.random.PRNGKey(seed), use), index)


def row_keys(rng: jax.Array, name: str, rows: jax.Array) -> jax.Array:
    """Returns one key per row, of its index in the global batch: microbatches and meshes do not change it."""
    return _fold_each(key_of(rng, name), rows)


def sample_keys(seed: int, count: int, samples: Sequence[int] | None) -> jax.Array:
    """Returns one key for each of `count` rows: of its number among all that are written with `seed`; 0, 1, ... by default."""
    numbers = jnp.arange(count) if samples is None else jnp.asarray(samples)
    return _fold_each(jax.random.PRNGKey(seed), numbers)


@jax.jit
def _fold_each(rng, numbers_B):
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, numbers_B)
