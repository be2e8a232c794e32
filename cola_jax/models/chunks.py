"""Rows split into chunks of queries, so that each is multiplied only with keys that some query of it attends to.

Axes: B batch, Q queries, M keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ComputeConfig
from cola_jax.models import visibility


def chunk_bounds(length: int, block_size: int, chunks: int) -> list[tuple[int, int]]:
    """Splits `length` positions into at most `chunks` runs of whole blocks of nearly equal size."""
    blocks = -(-length // block_size)
    edges = np.unique(np.round(np.linspace(0, blocks, min(chunks, blocks) + 1)).astype(int)) * block_size
    return [(int(a), min(int(b), length)) for a, b in zip(edges[:-1], edges[1:])]


def query_chunks(length: int, block_size: int, compute: ComputeConfig) -> list[tuple[int, int]]:
    """The chunks of a row under a config. cuDNN's masks need even numbers of queries and keys."""
    unit = math.lcm(block_size, 2) if compute.attention == "cudnn" else block_size
    return chunk_bounds(length, unit, compute.attention_chunks)


def block_mask(
    predicate: Callable[..., jax.Array],
    queries: tuple[int, int],
    keys: tuple[int, int],
    block_size: int,
    segments_BN: jax.Array | None,
) -> jax.Array:
    """Mask (1 or B, 1, Q, M) of two ranges of positions of one row; the block part is a compile-time constant."""
    q_block, k_block = (np.arange(*bounds) // block_size for bounds in (queries, keys))
    mask = jnp.asarray(predicate(q_block[:, None], k_block[None, :]))[None, None]
    if segments_BN is not None:
        q_segment, k_segment = segments_BN[:, slice(*queries)], segments_BN[:, slice(*keys)]
        mask = mask & visibility.same_segment(q_segment[:, None, :, None], k_segment[:, None, None, :])
    return mask
