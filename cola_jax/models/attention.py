"""Attention: queries, keys, values and a pattern of `visibility`, computed where the pattern lets anything through.

Axes: B batch, H heads, Q queries, M keys, N positions, K head channels. Arrays come and go as (B, N, H, K); softmax is fp32.
Queries are taken in chunks of whole blocks, and a chunk is multiplied only with the keys that some query of it may see.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.models import visibility

MASKED = -1e30  # finite, so that a query without any key gives a mean instead of NaN


def attend(q_BQHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Softmax attention, scaled by 1/sqrt(K). mask: booleans that broadcast to (B, H, Q, M), or None. Returns (B, Q, H, K).

    Keys and values may have fewer heads than queries; each serves H / H_kv neighbouring query heads.
    """
    k_BMHK, v_BMHK = _share_heads(q_BQHK, k_BMHK), _share_heads(q_BQHK, v_BMHK)
    scale = q_BQHK.shape[-1] ** -0.5
    scores = jnp.einsum("bqhk,bmhk->bhqm", q_BQHK * scale, k_BMHK, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BMHK.dtype)
    return jnp.einsum("bhqm,bmhk->bqhk", weights, v_BMHK)


def block_causal_attention(
    q_BNHK: jax.Array,
    k_BNHK: jax.Array,
    v_BNHK: jax.Array,
    *,
    block_size: int,
    segments_BN: jax.Array | None,
    chunks: int,
) -> jax.Array:
    """Block-causal self-attention of one stream (VAE, clean prefix). Returns (B, N, H, K).

    segments_BN: document of each position, or None where a row is one document.
    """
    outputs = []
    for start, end in chunk_bounds(q_BNHK.shape[1], block_size, chunks):
        mask = _block_mask(visibility.block_causal, (start, end), (0, end), block_size, segments_BN)
        outputs.append(attend(q_BNHK[:, start:end], k_BNHK[:, :end], v_BNHK[:, :end], mask))
    return jnp.concatenate(outputs, axis=1)


def clean_noisy_attention(
    clean: tuple[jax.Array | None, jax.Array, jax.Array],
    noisy: tuple[jax.Array, jax.Array, jax.Array],
    *,
    block_size: int,
    segments_BN: jax.Array | None,
    chunks: int,
) -> tuple[jax.Array | None, jax.Array]:
    """The training pass over [clean | noisy] (SPEC 1.3) without the pairs that it forbids.

    Args:
      clean: q, k, v of the clean copy without its last block, (B, N - S, H, K); q is None where its output is not wanted.
      noisy: q, k, v of the noisy copy, (B, N, H, K).
      block_size: S.
      segments_BN: document of each position, or None where a row is one document.
      chunks: at most how many query chunks; more chunks skip more of what is masked.

    Returns:
      (clean output or None, noisy output).
    """
    q_clean, k_clean, v_clean = clean
    q_noisy, k_noisy, v_noisy = noisy
    last = k_clean.shape[1]
    clean_out, noisy_out = [], []
    for start, end in chunk_bounds(q_noisy.shape[1], block_size, chunks):
        seen = min(end, last)
        past = _block_mask(visibility.earlier_block, (start, end), (0, seen), block_size, segments_BN)
        own = _block_mask(visibility.same_block, (start, end), (start, end), block_size, segments_BN)
        keys = jnp.concatenate([k_clean[:, :seen], k_noisy[:, start:end]], axis=1)
        values = jnp.concatenate([v_clean[:, :seen], v_noisy[:, start:end]], axis=1)
        noisy_out.append(attend(q_noisy[:, start:end], keys, values, jnp.concatenate([past, own], axis=-1)))
        if q_clean is not None and start < seen:
            mask = _block_mask(visibility.block_causal, (start, seen), (0, seen), block_size, segments_BN)
            clean_out.append(attend(q_clean[:, start:seen], k_clean[:, :seen], v_clean[:, :seen], mask))
    if q_clean is None:
        return None, jnp.concatenate(noisy_out, axis=1)
    return (jnp.concatenate(clean_out, axis=1) if clean_out else q_clean), jnp.concatenate(noisy_out, axis=1)


def cached_mask(length_B: jax.Array, cached: int, own_QQ: jax.Array) -> jax.Array:
    """Mask (B, 1, Q, M + Q) of Q new positions over the first `length_B` of M cached ones and over each other."""
    past = visibility.cached(jnp.arange(cached), length_B[:, None])[:, None, None, :]
    shape = (length_B.shape[0], 1, own_QQ.shape[0])
    return jnp.concatenate(
        [jnp.broadcast_to(past, (*shape, cached)), jnp.broadcast_to(own_QQ, (*shape, own_QQ.shape[1]))], axis=-1
    )


def chunk_bounds(length: int, block_size: int, chunks: int) -> list[tuple[int, int]]:
    """Cuts `length` positions into at most `chunks` runs of whole blocks of nearly equal size."""
    blocks = -(-length // block_size)
    edges = np.unique(np.round(np.linspace(0, blocks, min(chunks, blocks) + 1)).astype(int)) * block_size
    return [(int(a), min(int(b), length)) for a, b in zip(edges[:-1], edges[1:])]


def _block_mask(predicate, queries, keys, block_size, segments_BN):
    """Mask (1 or B, 1, Q, M) of two ranges of positions of one row; the block part is a compile-time constant."""
    q_block, k_block = (np.arange(*bounds) // block_size for bounds in (queries, keys))
    mask = jnp.asarray(predicate(q_block[:, None], k_block[None, :]))[None, None]
    if segments_BN is not None:
        q_segment, k_segment = segments_BN[:, slice(*queries)], segments_BN[:, slice(*keys)]
        mask = mask & visibility.same_segment(q_segment[:, None, :, None], k_segment[:, None, None, :])
    return mask


def _share_heads(q_BQHK, k_BMHK):
    share = q_BQHK.shape[2] // k_BMHK.shape[2]
    return k_BMHK if share == 1 else jnp.repeat(k_BMHK, share, axis=2)
