"""Attention: queries, keys, values and a pattern of `visibility`, computed where the pattern lets anything through.

Axes: B batch, H heads, Q queries, M keys, N positions, K head channels. Arrays come and go as (B, N, H, K); softmax is fp32.
Queries are taken in chunks of whole blocks, and a chunk is multiplied only with the keys that some query of it may see.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ComputeConfig
from cola_jax.models import splash, visibility
from cola_jax.models.axes import lay_out, shards

MASKED = -1e30  # finite, so that a query without any key gives a mean instead of NaN


def attend(q_BQHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Softmax attention, scaled by 1/sqrt(K). Returns (B, Q, H, K).

    mask: booleans that broadcast to (B, H, Q, M), or None. Keys and values may have fewer heads than queries; each serves
    H / H_kv neighbouring query heads.
    """
    return _swap(_attend(*_heads_first(q_BQHK, k_BMHK, v_BMHK), mask))


def attend_behind(
    q_AQHK: jax.Array,
    past: tuple[jax.Array, jax.Array],
    own: tuple[jax.Array, jax.Array],
    past_mask: jax.Array,
) -> jax.Array:
    """Attention of new positions over each other and, in the first B of A rows, over cached ones. Returns (A, Q, H, K).

    Args:
      past: cached keys as columns, (B, H, K, M), and values as rows, (B, H, M, K): as they are multiplied fastest.
      own: keys and values of the new positions, (A, Q, H, K).
      past_mask: booleans (B, 1, 1, M): which cached positions count.
    """
    q, k_own, v_own = _heads_first(q_AQHK, *own)
    q = q * q.shape[-1] ** -0.5
    k_past, v_past = past
    rows = k_past.shape[0]
    on_past = jnp.einsum("bhqk,bhkm->bhqm", q[:rows], k_past, preferred_element_type=jnp.float32)
    on_own = jnp.einsum("bhqk,bhmk->bhqm", q, k_own, preferred_element_type=jnp.float32)
    on_past = jnp.where(past_mask, on_past, MASKED)
    largest_past, largest = (jnp.max(scores, axis=-1, keepdims=True) for scores in (on_past, on_own))
    largest = _add_rows(jnp.maximum, largest, largest_past)
    past_weights, weights = jnp.exp(on_past - largest[:rows]), jnp.exp(on_own - largest)
    summed = lambda x: jnp.sum(x, axis=-1, keepdims=True)
    mix = lambda weights, v: jnp.einsum("bhqm,bhmk->bhqk", weights.astype(v.dtype), v)
    mixed = _add_rows(jnp.add, mix(weights, v_own), mix(past_weights, v_past))
    return _swap((mixed / _add_rows(jnp.add, summed(weights), summed(past_weights))).astype(q.dtype))


def _add_rows(add, x_A, y_B):
    """add(x, y) in the first B of A rows."""
    rows = y_B.shape[0]
    return add(x_A, y_B) if rows == x_A.shape[0] else jnp.concatenate([add(x_A[:rows], y_B), x_A[rows:]])


def block_causal_attention(
    q_BNHK: jax.Array,
    k_BNHK: jax.Array,
    v_BNHK: jax.Array,
    *,
    block_size: int,
    segments_BN: jax.Array | None,
    compute: ComputeConfig,
) -> jax.Array:
    """Block-causal self-attention of one stream (VAE, clean prefix). Returns (B, N, H, K).

    segments_BN: document of each position, or None where a row is one document.
    """
    if compute.attention == "splash":
        return splash.block_causal(q_BNHK, k_BNHK, v_BNHK, block_size=block_size, segments_BN=segments_BN)
    split = shards("length") > 1  # the positions of a row lie on several devices: queries stay, keys and values travel
    k_BNHK, v_BNHK = (_everywhere(x) if split else x for x in (k_BNHK, v_BNHK))
    q, k, v = _heads_first(q_BNHK, k_BNHK, v_BNHK)
    outputs = []
    for start, end in chunk_bounds(q.shape[2], block_size, 1 if split else compute.attention_chunks):
        mask = _block_mask(visibility.block_causal, (start, end), (0, end), block_size, segments_BN)
        outputs.append(_attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask))
    return _swap(jnp.concatenate(outputs, axis=2))


def full_attention(
    q_BNHK: jax.Array, k_BNHK: jax.Array, v_BNHK: jax.Array, *, segments_BN: jax.Array | None
) -> jax.Array:
    """Self-attention of every position with every one of its document. Returns (B, N, H, K).

    segments_BN: document of each position, or None where a row is one document.
    """
    k_BNHK, v_BNHK = _everywhere(k_BNHK), _everywhere(v_BNHK)
    if segments_BN is None:
        return attend(q_BNHK, k_BNHK, v_BNHK, None)
    mask = visibility.same_segment(segments_BN[:, None, :, None], segments_BN[:, None, None, :])
    return attend(q_BNHK, k_BNHK, v_BNHK, mask)


def clean_noisy_attention(
    clean: tuple[jax.Array | None, jax.Array, jax.Array],
    noisy: tuple[jax.Array, jax.Array, jax.Array],
    *,
    block_size: int,
    segments_BN: jax.Array | None,
    compute: ComputeConfig,
) -> tuple[jax.Array | None, jax.Array]:
    """The training pass over [clean | noisy] (SPEC 1.3) without the pairs that it forbids.

    Args:
      clean: q, k, v of the clean copy with or without its last block, (B, N or N - S, H, K); q is None where its output is
        not wanted.
      noisy: q, k, v of the noisy copy, (B, N, H, K).
      block_size: S.
      segments_BN: document of each position, or None where a row is one document.
      compute: the kernel, and into how many query chunks xla cuts a row: more of them skip more of what is masked.

    Returns:
      (clean output or None, noisy output).
    """
    if compute.attention == "splash":
        return splash.clean_noisy(clean, noisy, block_size=block_size, segments_BN=segments_BN)
    if shards("length") > 1:
        return _clean_noisy_split(clean, noisy, block_size, segments_BN, compute)
    _, k_clean, v_clean = _heads_first(noisy[0], *clean[1:])
    q_noisy, k_noisy, v_noisy = _heads_first(*noisy)
    q_clean = None if clean[0] is None else _swap(clean[0])
    last = k_clean.shape[2]
    clean_out, noisy_out = [], []
    for start, end in chunk_bounds(q_noisy.shape[2], block_size, compute.attention_chunks):
        before = (end - 1) // block_size * block_size  # the last of these queries see no clean block but earlier ones
        past = _block_mask(visibility.earlier_block, (start, end), (0, before), block_size, segments_BN)
        own = _block_mask(visibility.same_block, (start, end), (start, end), block_size, segments_BN)
        keys = jnp.concatenate([k_clean[:, :, :before], k_noisy[:, :, start:end]], axis=2)
        values = jnp.concatenate([v_clean[:, :, :before], v_noisy[:, :, start:end]], axis=2)
        noisy_out.append(_attend(q_noisy[:, :, start:end], keys, values, jnp.concatenate([past, own], axis=-1)))
        seen = min(end, last)
        if q_clean is not None and start < seen:
            mask = _block_mask(visibility.block_causal, (start, seen), (0, seen), block_size, segments_BN)
            clean_out.append(_attend(q_clean[:, :, start:seen], k_clean[:, :, :seen], v_clean[:, :, :seen], mask))
    noisy_BNHK = _swap(jnp.concatenate(noisy_out, axis=2))
    if q_clean is None:
        return None, noisy_BNHK
    return (_swap(jnp.concatenate(clean_out, axis=2)) if clean_out else clean[0]), noisy_BNHK


def _clean_noisy_split(clean, noisy, block_size, segments_BN, compute):
    """`clean_noisy_attention` with the positions of a row on several devices.

    Queries stay where they are, and so do noisy keys, which their own block alone sees; clean keys and values travel.
    """
    q_clean, k_clean, v_clean = clean
    clean_out = None
    if q_clean is not None:
        clean_out = block_causal_attention(
            q_clean, k_clean, v_clean, block_size=block_size, segments_BN=segments_BN, compute=compute
        )
    q, k_past, v_past = _heads_first(noisy[0], _everywhere(k_clean), _everywhere(v_clean))
    in_blocks = lambda x: x.reshape(*x.shape[:2], -1, block_size, x.shape[-1])
    q_own, k_own, v_own = (in_blocks(x) for x in _heads_first(*noisy))
    length, scale = q.shape[2], q.shape[-1] ** -0.5
    past = jnp.einsum("bhqk,bhmk->bhqm", q * scale, k_past, preferred_element_type=jnp.float32)
    own = jnp.einsum("bhnqk,bhnmk->bhnqm", q_own * scale, k_own, preferred_element_type=jnp.float32)
    past_mask = _block_mask(visibility.earlier_block, (0, length), (0, k_past.shape[2]), block_size, segments_BN)
    past = jnp.where(past_mask, past, MASKED)
    if segments_BN is not None:
        blocks_BnS = segments_BN.reshape(segments_BN.shape[0], 1, -1, block_size)
        own = jnp.where(visibility.same_segment(blocks_BnS[..., :, None], blocks_BnS[..., None, :]), own, MASKED)
    scores = jnp.concatenate([past, own.reshape(*past.shape[:3], block_size)], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_past.dtype)
    on_past, on_own = jnp.split(weights, [k_past.shape[2]], axis=-1)
    mixed = jnp.einsum("bhqm,bhmk->bhqk", on_past, v_past)
    mixed += jnp.einsum("bhnqm,bhnmk->bhnqk", in_blocks(on_own), v_own).reshape(mixed.shape)
    return clean_out, lay_out(_swap(mixed), "batch", "length", "heads", None)


def _everywhere(x_BNHK: jax.Array) -> jax.Array:
    """Keys or values of whole rows, wherever their positions lie."""
    return lay_out(x_BNHK, "batch", None, "heads", None)


def _attend(q_BHQK: jax.Array, k_BHMK: jax.Array, v_BHMK: jax.Array, mask: jax.Array | None) -> jax.Array:
    scale = q_BHQK.shape[-1] ** -0.5
    scores = jnp.einsum("bhqk,bhmk->bhqm", q_BHQK * scale, k_BHMK, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BHMK.dtype)
    return jnp.einsum("bhqm,bhmk->bhqk", weights, v_BHMK)


def _heads_first(q_BQHK: jax.Array, *keys_and_values_BMHK: jax.Array) -> tuple[jax.Array, ...]:
    """(B, N, H, K) -> (B, H, N, K), once for all chunks; shared key and value heads are repeated."""
    heads = q_BQHK.shape[2]
    repeat = lambda x: x if x.shape[2] == heads else jnp.repeat(x, heads // x.shape[2], axis=2)
    return _swap(q_BQHK), *(_swap(repeat(x)) for x in keys_and_values_BMHK)


def _swap(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, 1, 2)


def past_mask(length_B: jax.Array, cached: int) -> jax.Array:
    """Mask (B, 1, 1, M): the first `length_B` of M cached positions."""
    return visibility.cached(jnp.arange(cached), length_B[:, None])[:, None, None, :]


def cached_mask(length_B: jax.Array, cached: int, own_QQ: jax.Array) -> jax.Array:
    """Mask (B, 1, Q, M + Q) of Q new positions over the first `length_B` of M cached ones and over each other."""
    past = past_mask(length_B, cached)
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
