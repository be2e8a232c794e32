"""The RoPE positions behind the published generation cases.

The public code keeps one table of rotation angles in the process and serves later requests from it. In the process that wrote
the cases, the last table filled was that of the flow matching pass, [0..n-1 | 0..n-1] of every sample one after the other;
lengths that an earlier plain pass had asked for were remembered apart, as 0..n-1. A generation in that process reads
  keys of n latents: 0..n-1 where n was remembered, else the first n entries of the table;
  queries of a block behind m latents: entries m..m+S-1 of the table.
A request beyond the table gets natural positions. Positions of a fresh process are natural: they are what training uses, and
what `cola-jax generate` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cola_jax.models.dit import BlockPositions


@dataclass(frozen=True)
class GoldenRope:
    """See the module. remembered: lengths asked for by plain passes; table: (entries,) int32."""

    remembered: frozenset[int]
    table: np.ndarray

    def keys(self, length: int) -> np.ndarray:
        """Positions (length,) of the keys of a sample of `length` latents."""
        if length in self.remembered or length > self.table.size:
            return np.arange(length)
        return self.table[:length]

    def queries(self, start: int, size: int) -> np.ndarray:
        """Positions (size,) of the queries of a block that starts at latent `start`."""
        if start == 0 and size in self.remembered or start + size > self.table.size:
            return np.arange(start, start + size)
        return self.table[start : start + size]

    def prefix(self, length_B: np.ndarray, width: int) -> np.ndarray:
        rows = np.tile(np.arange(width), (len(length_B), 1))
        for row, length in zip(rows, length_B):
            row[:length] = self.keys(int(length))
        return rows

    def block(self, length_B: np.ndarray, block_size: int, slots: int) -> BlockPositions:
        past = np.zeros((len(length_B), slots), np.int32)
        k_new, q_new = (np.zeros((len(length_B), block_size), np.int32) for _ in range(2))
        for row, length in enumerate(int(n) for n in length_B):
            keys = self.keys(length + block_size)
            past[row, :length], k_new[row] = keys[:length], keys[length:]
            q_new[row] = self.queries(length, block_size)
        return BlockPositions(past, k_new, q_new)


def golden_rope(plain_lengths: list[int], flow_lengths: list[int]) -> GoldenRope:
    """The table of a process that ran plain passes and then one flow matching pass over samples of these lengths."""
    halves = [np.arange(length) for length in flow_lengths for _ in range(2)]
    return GoldenRope(frozenset(plain_lengths), np.concatenate(halves).astype(np.int32))
