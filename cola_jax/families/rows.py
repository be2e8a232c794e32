"""How texts become the rows of a batch: their padding, their keys and their devices, the same for every family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from cola_jax.families.keys import sample_keys
from cola_jax.generate.prompts import Place


@dataclass(frozen=True)
class RowOptions:
    """Options of a batch of rows. What is drawn for a row depends on (seed, sample) alone, whatever else is in the batch.

    Attributes:
      pad_id: token id that rows are padded with.
      seed: of everything that is drawn.
      samples: number of each row among all that are drawn with `seed`; None: 0, 1, ...
      prompt_tokens: rows are padded to at least so many tokens, so that batches share their compiled programs.
      place: puts an array whose leading axis is rows onto devices; by default onto the first.
    """

    pad_id: int
    seed: int = 0
    samples: Sequence[int] | None = None
    prompt_tokens: int = 0
    place: Place = jnp.asarray

    def keys(self, count: int) -> jax.Array:
        """Returns one key for each of `count` rows, on the devices of the rows."""
        return self.place(sample_keys(self.seed, count, self.samples))
