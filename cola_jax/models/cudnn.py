"""Attention by cuDNN's flash attention on NVIDIA GPUs, through `jax.nn.dot_product_attention`.

Causal and full attention need no mask; any other pattern is passed as a bias, of one row and head unless rows have
several documents.

Axes: B batch, H heads, Q queries, M keys, K head channels.
"""

from __future__ import annotations

import jax

IMPLEMENTATION = "cudnn"  # of jax.nn.dot_product_attention


def attend(
    q_BQHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array, mask: jax.Array | None, causal: bool = False
) -> jax.Array:
    """Softmax attention, scaled by 1/sqrt(K). Returns (B, Q, H, K).

    Args:
      k, v: may have fewer heads than q; each is shared by neighbouring query heads.
      mask: booleans (1 or B, 1, Q, M), or None. causal: every query attends to itself and earlier ones.
    """
    return jax.nn.dot_product_attention(
        q_BQHK, k_BMHK, v_BMHK, mask=mask, is_causal=causal, implementation=IMPLEMENTATION
    )
