"""Keys of a generation: what a row draws depends on its own key and the number of the draw alone."""

from __future__ import annotations

import jax


@jax.jit
def fold_rows(keys_B: jax.Array, number: jax.Array | int) -> jax.Array:
    """Returns the key of every row for its draw `number`, of a block say. Compiled, since loops on the host ask for it."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, number)
