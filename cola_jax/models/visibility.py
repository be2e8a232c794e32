"""Attention patterns: one predicate each (SPEC 1.3).

Every predicate takes block indices of queries and keys (integers that broadcast against each other) and returns booleans;
`same_segment` is combined with it if rows have several documents.
"""

from __future__ import annotations

import jax


def block_causal(q_block: jax.Array, k_block: jax.Array) -> jax.Array:
    """Own and earlier blocks: clean queries on clean keys; with blocks of one position, strictly causal."""
    return q_block >= k_block


def earlier_block(q_block: jax.Array, k_block: jax.Array) -> jax.Array:
    """Earlier blocks only: noisy queries on clean keys."""
    return q_block > k_block


def same_block(q_block: jax.Array, k_block: jax.Array) -> jax.Array:
    """The own block only: noisy queries on noisy keys."""
    return q_block == k_block


def same_segment(q_segment: jax.Array, k_segment: jax.Array) -> jax.Array:
    """Positions of one document."""
    return q_segment == k_segment


def cached(slot: jax.Array, length: jax.Array) -> jax.Array:
    """Slots of a cache that are filled."""
    return slot < length
