"""Number of query-key pairs that an attention pattern allows in a row of one document, and that a kernel computes.

Axes: N positions of a row, S positions per block.
"""

from __future__ import annotations

from typing import NamedTuple

from cola_jax.config import ComputeConfig
from cola_jax.models.chunks import query_chunks
from cola_jax.models.splash import computed_pairs


class Pairs(NamedTuple):
    """Query-key pairs of one row and one head: those that the pattern allows, and those that are computed."""

    live: int
    computed: int

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(self.live + other.live, self.computed + other.computed)


def block_causal(length: int, block_size: int, compute: ComputeConfig) -> Pairs:
    """Of `attention.block_causal_attention`: each query attends to its own block and earlier ones."""
    live = sum(min((block + 1) * block_size, length) * size for block, size in _blocks(length, block_size))
    if compute.attention == "splash":
        return Pairs(live, computed_pairs(length, block_size, noisy=False))
    bounds = query_chunks(length, block_size, compute)
    return Pairs(live, sum((end - start) * end for start, end in bounds))


def full(length: int) -> Pairs:
    """Of `attention.full_attention`."""
    return Pairs(length**2, length**2)


def noisy(length: int, block_size: int, compute: ComputeConfig) -> Pairs:
    """Of the noisy queries of `attention.clean_noisy_attention`: earlier clean blocks and their own noisy one."""
    live = sum((block * block_size + size) * size for block, size in _blocks(length, block_size))
    if compute.attention == "splash":
        return Pairs(live, computed_pairs(length, block_size, noisy=True))
    bounds = query_chunks(length, block_size, compute)
    before = lambda end: (end - 1) // block_size * block_size
    return Pairs(live, sum((end - start) * (before(end) + end - start) for start, end in bounds))


def clean(length: int, block_size: int, compute: ComputeConfig) -> Pairs:
    """Of the clean queries of `attention.clean_noisy_attention`, whose last block is left out."""
    last = length - block_size
    live = block_causal(last, block_size, ComputeConfig()).live if last else 0
    if compute.attention == "splash":
        return Pairs(live, computed_pairs(length, block_size, noisy=False))
    chunks = query_chunks(length, block_size, compute)
    bounds = [(start, min(end, last)) for start, end in chunks if start < last]
    return Pairs(live, sum((end - start) * end for start, end in bounds))


def _blocks(length: int, block_size: int) -> list[tuple[int, int]]:
    """(index, size) of every block; the last may be shorter."""
    return [(start // block_size, min(block_size, length - start)) for start in range(0, length, block_size)]
