"""PRNG keys of a generation: the draws of a row depend only on its own key and the index of the draw."""

from __future__ import annotations

import jax


@jax.jit
def fold_rows(keys_B: jax.Array, number: jax.Array | int) -> jax.Array:
    """Returns the key of every row for draw `number`, e.g. of a block. Compiled, since loops on the host call it."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, number)
