"""Cross-entropy over a large vocabulary, and other functions of its logits, in chunks of positions.

Axes: B batch, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from cola_jax.models.axes import shard_activations


def chunked_cross_entropy(
    to_logits: Callable[[jax.Array], jax.Array], h_BLD: jax.Array, targets_BL: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """Returns -log p(target) in nats and whether the target is the argmax, both (B, L) fp32.

    Logits of at most `chunk` positions of every row are in memory at once; see `in_pieces`.
    """

    def piece(h_BcD, targets_Bc):
        return _cross_entropy(to_logits(shard_activations(h_BcD, "batch", "length", None)), targets_Bc)

    return in_pieces(piece, chunk, h_BLD, targets_BL)


def in_pieces(function: Callable[..., Any], chunk: int, *arrays: jax.Array) -> Any:
    """Applies `function` to at most `chunk` positions of (B, L, ...) arrays at a time; recomputed in the backward pass.

    function: pieces -> a tuple of arrays (B, positions, ...). A row no longer than `chunk` is one piece, and
    nothing is recomputed.
    """
    chex.assert_equal_shape_prefix(arrays, 2)
    length = arrays[0].shape[1]
    if chunk >= length:
        return function(*arrays)
    pieces = -(-length // chunk)
    room = lambda x: jnp.pad(x, [(0, 0), (0, pieces * chunk - length), *[(0, 0)] * (x.ndim - 2)])
    # Position i goes to piece i mod pieces: if positions are split over devices, every device has a part of each piece.
    apart = lambda x: jnp.moveaxis(room(x).reshape(x.shape[0], chunk, pieces, *x.shape[2:]), 2, 0)
    done = jax.lax.map(lambda piece: jax.checkpoint(function)(*piece), tuple(map(apart, arrays)))
    back = lambda x: jnp.moveaxis(x, 0, 2).reshape(x.shape[1], -1, *x.shape[3:])[:, :length]
    return jax.tree.map(back, done)


def _cross_entropy(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nothing is gathered by index: if the vocabulary is sharded, only sums and maxima are communicated."""
    logits = logits_BLV.astype(jnp.float32)
    ids = jnp.arange(logits.shape[-1])
    chosen = jnp.sum(jnp.where(ids == targets_BL[..., None], logits, 0.0), axis=-1)
    fixed = jax.lax.stop_gradient(logits)
    highest = jnp.max(fixed, axis=-1, keepdims=True)
    argmax = jnp.min(jnp.where(fixed == highest, ids, ids.size), axis=-1)  # the first, as jnp.argmax has it
    return jax.nn.logsumexp(logits, axis=-1) - chosen, (argmax == targets_BL).astype(jnp.float32)
