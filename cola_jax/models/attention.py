"""Attention: queries, keys, values and a pattern of `visibility`, computed only where the pattern allows it.

Axes: B batch, H heads, Q queries, M keys, N positions, K head channels. Inputs and outputs are (B, N, H, K); softmax is fp32.
Queries are processed in chunks of whole blocks, and a chunk is multiplied only with keys that some query of it attends to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cola_jax.config import ComputeConfig
from cola_jax.models import cudnn, splash, visibility
from cola_jax.models.axes import shard_activations, shards
from cola_jax.models.cache import KVCache
from cola_jax.models.chunks import block_mask, query_chunks

MASKED = -1e30  # finite, so that a query without any key gives a mean instead of NaN


def attend_with_cache(
    q_AHQK: jax.Array,
    k_AHQK: jax.Array,
    v_AHQK: jax.Array,
    past: KVCache,
    past_mask: jax.Array,
    own_mask: jax.Array | None = None,
    repeated: bool = False,
) -> jax.Array:
    """Attention of new positions to each other and, in the first B of A rows, to cached ones. Returns (A, Q, H, K).

    Args:
      k_AHQK, v_AHQK: keys and values of the new positions; possibly with fewer heads than q, each then shared by
        H / H_kv neighbouring query heads.
      past: keys and values of M earlier positions of the first B rows.
      past_mask: booleans (B, 1, 1, M): which cached positions are attended to.
      own_mask: booleans (Q, Q): which new positions each of them attends to; None for all.
      repeated: the caller guarantees that masked cached keys equal the first one. The maximum over all scores is then that
        of the unmasked ones, and needs no masking.
    """
    chex.assert_equal_shape((k_AHQK, v_AHQK))
    chex.assert_equal_shape((q_AHQK, k_AHQK), dims=(0, 2, 3))
    rows, heads, size = past.k.shape[0], q_AHQK.shape[1], q_AHQK.shape[2]
    shared = heads // k_AHQK.shape[1]
    q = _share_heads(q_AHQK * q_AHQK.shape[-1] ** -0.5, shared)
    on_past = jnp.einsum("bhqk,bhkm->bhqm", q[:rows], past.k, preferred_element_type=jnp.float32)
    on_own = jnp.einsum("bhqk,bhmk->bhqm", q, k_AHQK, preferred_element_type=jnp.float32)
    if own_mask is not None:
        on_own = jnp.where(jnp.tile(own_mask, (shared, 1)), on_own, MASKED)
    largest_of = lambda scores: jnp.max(scores, axis=-1, keepdims=True)
    masked = jnp.where(past_mask, on_past, MASKED)
    if repeated:  # in a row without a past all keys are masked, the first one too
        largest_past = jnp.where(past_mask[..., :1], largest_of(on_past), MASKED)
    else:
        largest_past = largest_of(masked)
    largest = _add_rows(jnp.maximum, largest_of(on_own), largest_past)
    past_weights, weights = jnp.exp(masked - largest[:rows]), jnp.exp(on_own - largest)
    summed = lambda x: jnp.sum(x, axis=-1, keepdims=True)
    mix = lambda weights, v: jnp.einsum("bhqm,bhmk->bhqk", weights.astype(v.dtype), v)
    mixed = _add_rows(jnp.add, mix(weights, v_AHQK), mix(past_weights, past.v))
    mixed = (mixed / _add_rows(jnp.add, summed(weights), summed(past_weights))).astype(q.dtype)
    return by_head(mixed.reshape(-1, heads, size, mixed.shape[-1]))


def _share_heads(q_AHQK, shared):
    """Concatenates the queries of `shared` neighbouring heads: (A, H / shared, shared Q, K)."""
    return q_AHQK.reshape(q_AHQK.shape[0], q_AHQK.shape[1] // shared, -1, q_AHQK.shape[-1])


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

    segments_BN: document of each position, or None if a row is one document.
    """
    if compute.attention == "splash":
        return splash.block_causal(q_BNHK, k_BNHK, v_BNHK, block_size=block_size, segments_BN=segments_BN)
    if compute.attention == "cudnn" and block_size == 1 and segments_BN is None:
        return cudnn.attend(q_BNHK, k_BNHK, v_BNHK, None, causal=True)
    split = shards("length") > 1  # the positions of a row are sharded: queries stay, keys and values are gathered
    k_BNHK, v_BNHK = (_everywhere(x) if split else x for x in (k_BNHK, v_BNHK))
    length, outputs, kernel = q_BNHK.shape[1], [], _kernel_of(compute)
    q, k, v = kernel.enter(q_BNHK, k_BNHK, v_BNHK)
    for start, end in [(0, length)] if split else query_chunks(length, block_size, compute):
        mask = block_mask(visibility.block_causal, (start, end), (0, end), block_size, segments_BN)
        outputs.append(kernel.attend(kernel.cut(q, start, end), kernel.cut(k, 0, end), kernel.cut(v, 0, end), mask))
    return kernel.leave(jnp.concatenate(outputs, axis=kernel.axis))


def full_attention(
    q_BNHK: jax.Array,
    k_BNHK: jax.Array,
    v_BNHK: jax.Array,
    *,
    segments_BN: jax.Array | None,
    compute: ComputeConfig,
) -> jax.Array:
    """Self-attention of every position to all of its document. Returns (B, N, H, K).

    segments_BN: document of each position, or None if a row is one document.
    """
    mask, kernel = None, _kernel_of(compute)
    if segments_BN is not None:
        mask = visibility.same_segment(segments_BN[:, None, :, None], segments_BN[:, None, None, :])
    return kernel.leave(kernel.attend(*kernel.enter(q_BNHK, _everywhere(k_BNHK), _everywhere(v_BNHK)), mask))


def clean_noisy_attention(
    clean: tuple[jax.Array | None, jax.Array, jax.Array],
    noisy: tuple[jax.Array, jax.Array, jax.Array],
    *,
    block_size: int,
    segments_BN: jax.Array | None,
    compute: ComputeConfig,
) -> tuple[jax.Array | None, jax.Array]:
    """The training pass over [clean | noisy] (SPEC 1.3), skipping masked pairs.

    Args:
      clean: q, k, v of the clean copy with or without its last block, (B, N or N - S, H, K); q is None if its output is
        not wanted.
      noisy: q, k, v of the noisy copy, (B, N, H, K).
      block_size: S.
      segments_BN: document of each position, or None if a row is one document.
      compute: the kernel, and the number of query chunks of a row for xla and cudnn: more chunks skip more masked pairs.

    Returns:
      (clean output or None, noisy output).
    """
    if compute.attention == "splash":
        return splash.clean_noisy(clean, noisy, block_size=block_size, segments_BN=segments_BN)
    if shards("length") > 1:
        return _clean_noisy_split(clean, noisy, block_size, segments_BN, compute)
    length, last, kernel = noisy[0].shape[1], clean[1].shape[1], _kernel_of(compute)
    q_clean, k_clean, v_clean = kernel.enter(noisy[0] if clean[0] is None else clean[0], *clean[1:])
    q_noisy, k_noisy, v_noisy = kernel.enter(*noisy)
    cut, join = kernel.cut, partial(jnp.concatenate, axis=kernel.axis)
    clean_out, noisy_out = [], []
    for start, end in query_chunks(length, block_size, compute):
        before = (end - 1) // block_size * block_size  # the last of these queries attend only to earlier clean blocks
        past = block_mask(visibility.earlier_block, (start, end), (0, before), block_size, segments_BN)
        own = block_mask(visibility.same_block, (start, end), (start, end), block_size, segments_BN)
        keys = join([cut(k_clean, 0, before), cut(k_noisy, start, end)])
        values = join([cut(v_clean, 0, before), cut(v_noisy, start, end)])
        noisy_out.append(kernel.attend(cut(q_noisy, start, end), keys, values, jnp.concatenate([past, own], axis=-1)))
        seen = min(end, last)
        if clean[0] is not None and start < seen:
            mask = block_mask(visibility.block_causal, (start, seen), (0, seen), block_size, segments_BN)
            clean_out.append(
                kernel.attend(cut(q_clean, start, seen), cut(k_clean, 0, seen), cut(v_clean, 0, seen), mask)
            )
    noisy_BNHK = kernel.leave(join(noisy_out))
    if clean[0] is None:
        return None, noisy_BNHK
    return (kernel.leave(join(clean_out)) if clean_out else clean[0]), noisy_BNHK


def _clean_noisy_split(clean, noisy, block_size, segments_BN, compute):
    """`clean_noisy_attention` with the positions of a row sharded over devices.

    Queries stay on their devices, and so do noisy keys, used only by their own block; clean keys and values are gathered.
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
    past_mask = block_mask(visibility.earlier_block, (0, length), (0, k_past.shape[2]), block_size, segments_BN)
    past = jnp.where(past_mask, past, MASKED)
    if segments_BN is not None:
        blocks_BnS = segments_BN.reshape(segments_BN.shape[0], 1, -1, block_size)
        own = jnp.where(visibility.same_segment(blocks_BnS[..., :, None], blocks_BnS[..., None, :]), own, MASKED)
    scores = jnp.concatenate([past, own.reshape(*past.shape[:3], block_size)], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_past.dtype)
    on_past, on_own = jnp.split(weights, [k_past.shape[2]], axis=-1)
    mixed = jnp.einsum("bhqm,bhmk->bhqk", on_past, v_past)
    mixed += jnp.einsum("bhnqm,bhnmk->bhnqk", in_blocks(on_own), v_own).reshape(mixed.shape)
    return clean_out, shard_activations(by_head(mixed), "batch", "length", "heads", None)


def _everywhere(x_BNHK: jax.Array) -> jax.Array:
    """Keys or values of whole rows, gathered over devices."""
    return shard_activations(x_BNHK, "batch", None, "heads", None)


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
    return by_head(q_BQHK), *(by_head(repeat(x)) for x in keys_and_values_BMHK)


def by_head(x_BNHK: jax.Array) -> jax.Array:
    """(B, N, H, K) -> (B, H, N, K), and back."""
    return jnp.swapaxes(x_BNHK, 1, 2)


class _Kernel(NamedTuple):
    """An attention kernel and the layout of its inputs.

    enter: q, k, v (B, N, H, K) -> the kernel's layout. leave: the inverse. axis: of positions in that layout.
    """

    axis: int
    enter: Callable[..., tuple[jax.Array, ...]]
    attend: Callable[..., jax.Array]
    leave: Callable[[jax.Array], jax.Array]

    def cut(self, x: jax.Array, start: int, end: int) -> jax.Array:
        return jax.lax.slice_in_dim(x, start, end, axis=self.axis)


_XLA = _Kernel(2, _heads_first, _attend, by_head)
_CUDNN = _Kernel(1, lambda *qkv: qkv, cudnn.attend, lambda x: x)


def _kernel_of(compute: ComputeConfig) -> _Kernel:
    return _CUDNN if compute.attention == "cudnn" else _XLA


def past_mask(length_B: jax.Array, cached: int) -> jax.Array:
    """Mask (B, 1, 1, M): the first `length_B` of M cached positions."""
    return visibility.cached(jnp.arange(cached), length_B[:, None])[:, None, None, :]
