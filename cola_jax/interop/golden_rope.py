"""The RoPE positions of the published generation cases.

The public code caches one table of rotation angles per process and answers later requests from it. In the process that
wrote the cases, the last table filled was that of the flow matching pass, [0..n-1 | 0..n-1] of every sample one after
the other; the requests of earlier plain passes were cached separately, as 0..n-1. A generation in that process reads
  keys of n latents: the entry cached for n, else the first n entries of the table;
  queries of a block of S after m latents: the entry cached for them, else entries m..m+S-1 of the table.
A request beyond the table gets natural positions, and one from 0 makes these the table. Every answer is cached.
Positions of a fresh process are natural: they are what training uses, and what `cola-jax generate` does.
"""

from __future__ import annotations

import numpy as np

from cola_jax.models.dit import BlockPositions


class GoldenRope:
    """The positions in such a process. Requests must be in the order of a generation, because they change the cache."""

    def __init__(self, plain_lengths: list[int], flow_lengths: list[int]):
        """A process that ran plain passes over samples of these lengths, and then one flow matching pass over them."""
        self._table = np.zeros(0, np.int64)
        self._remembered: dict[tuple[int, int], np.ndarray] = {}
        for length in plain_lengths:
            self._ask(0, length)
        halves = [np.arange(length) for length in flow_lengths for _ in range(2)]
        if sum(map(len, halves)) > len(self._table):
            self._table = np.concatenate(halves)

    def _ask(self, start: int, size: int) -> np.ndarray:
        """Returns the positions (size,) given for `size` latents from `start` on."""
        asked = (start, size)
        if asked not in self._remembered:
            known = start + size <= len(self._table)
            self._remembered[asked] = self._table[start : start + size] if known else np.arange(start, start + size)
            if not known and start == 0:
                self._table = self._remembered[asked]
        return self._remembered[asked]

    def prefix(self, length_B: np.ndarray, width: int) -> np.ndarray:
        """Returns the positions (B, width) of prompts of these lengths in latents, natural positions after them."""
        rows = np.tile(np.arange(width), (len(length_B), 1))
        for row, length in zip(rows, length_B):
            row[:length] = self._ask(0, int(length))
        return rows

    def block(self, length_B: np.ndarray, block_size: int, slots: int) -> BlockPositions:
        """Returns the positions of the next block, after these lengths, in a cache of `slots`."""
        past = np.zeros((len(length_B), slots), np.int32)
        k_new, q_new = (np.zeros((len(length_B), block_size), np.int32) for _ in range(2))
        for row, length in enumerate(int(n) for n in length_B):
            keys = self._ask(0, length + block_size)
            past[row, :length], k_new[row] = keys[:length], keys[length:]
        for row, length in enumerate(int(n) for n in length_B):
            q_new[row] = self._ask(length, block_size)
        return BlockPositions(past, k_new, q_new)
