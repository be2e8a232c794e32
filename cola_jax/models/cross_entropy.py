"""Cross-entropy over a large vocabulary, a stretch of positions at a time.

Axes: B batch, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def chunked_cross_entropy(
    to_logits: Callable[[jax.Array], jax.Array], h_BLD: jax.Array, targets_BL: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """Returns -log p(target) in nats and whether the target is the argmax, both (B, L) fp32.

    Logits of at most `chunk` positions of every row exist at once; the backward pass computes them again. A row no longer
    than `chunk` is done in one piece and nothing is recomputed.
    """
    length = h_BLD.shape[1]
    if chunk >= length:
        return _cross_entropy(to_logits(h_BLD), targets_BL)
    pieces = -(-length // chunk)
    pad = pieces * chunk - length
    h = jnp.pad(h_BLD, ((0, 0), (0, pad), (0, 0))).reshape(h_BLD.shape[0], pieces, chunk, -1)
    targets = jnp.pad(targets_BL, ((0, 0), (0, pad))).reshape(-1, pieces, chunk)

    @jax.checkpoint
    def piece(h_BcD, targets_Bc):
        return _cross_entropy(to_logits(h_BcD), targets_Bc)

    losses, correct = jax.lax.map(lambda args: piece(*args), (jnp.moveaxis(h, 1, 0), jnp.moveaxis(targets, 1, 0)))
    back = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)[:, :length]
    return back(losses), back(correct)


def _cross_entropy(logits_BLV: jax.Array, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits = logits_BLV.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets_BL[..., None], axis=-1)[..., 0]
    correct = jnp.argmax(jax.lax.stop_gradient(logits), axis=-1) == targets_BL
    return jax.nn.logsumexp(logits, axis=-1) - chosen, correct.astype(jnp.float32)
