"""Logits to tokens (SPEC 3.3). Axes: B batch, T positions, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cola_jax.config import SamplingConfig


@dataclass(frozen=True)
class Choice:
    """Which operations turn logits into tokens: static, while their values are arrays (`ChoiceValues`).

    Attributes:
      penalized: the repetition penalty. sampled: tokens are drawn, by rows of positive temperature; greedy otherwise.
      top_k, top_p: the filters of a drawn token, each of which sorts the vocabulary.
    """

    penalized: bool
    sampled: bool
    top_k: bool
    top_p: bool


class ChoiceValues(NamedTuple):
    """Per row, (B,): penalty (1: none), temperature (0: greedy) and top_p (1: all) fp32, top_k (0: all) int32."""

    penalty: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


def choice_of(sampling: SamplingConfig) -> Choice:
    """Returns the operations of a sampling config."""
    drawn = sampling.temperature > 0
    return Choice(
        sampling.repetition_penalty != 1.0, drawn, drawn and sampling.top_k > 0, drawn and sampling.top_p < 1.0
    )


def values_of(sampling: SamplingConfig, rows: int) -> ChoiceValues:
    """Returns the values of a sampling config, the same for each row."""
    drawn = sampling.temperature > 0
    full = lambda value, dtype: jnp.full(rows, value, dtype)
    return ChoiceValues(
        full(sampling.repetition_penalty, jnp.float32),
        full(sampling.temperature, jnp.float32),
        full(sampling.top_k if drawn else 0, jnp.int32),
        full(sampling.top_p if drawn else 1.0, jnp.float32),
    )


def choose(
    choice: Choice, values: ChoiceValues, logits_BTV: jax.Array, seen_BV: jax.Array, keys_B: jax.Array
) -> jax.Array:
    """Returns token ids (B, T) int32.

    Args:
      seen_BV: tokens already generated, to which the repetition penalty applies.
      keys_B: one key per row, read only if tokens are drawn.
    """
    rows, _, size = logits_BTV.shape
    chex.assert_shape(seen_BV, (rows, size))
    chex.assert_tree_shape_prefix(values, (rows,))
    logits = logits_BTV.astype(jnp.float32)
    if choice.penalized:
        logits = penalize(logits, seen_BV, values.penalty)
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if not choice.sampled:
        return greedy
    is_drawn = values.temperature[:, None] > 0
    logits = logits / jnp.where(is_drawn, values.temperature[:, None], 1.0)[..., None]
    if choice.top_k:
        logits = keep_top_k(logits, values.top_k)
    if choice.top_p:
        logits = keep_top_p(logits, values.top_p)
    drawn = jax.vmap(lambda key, row: jax.random.categorical(key, row, axis=-1))(keys_B, logits).astype(jnp.int32)
    return jnp.where(is_drawn, drawn, greedy)


def penalize(logits_BTV: jax.Array, seen_BV: jax.Array, penalty_B: jax.Array) -> jax.Array:
    """Divides positive and multiplies negative logits of seen tokens by the row's penalty."""
    penalty = penalty_B[:, None, None]
    penalized = jnp.where(logits_BTV > 0, logits_BTV / penalty, logits_BTV * penalty)
    return jnp.where(seen_BV[:, None, :], penalized, logits_BTV)


def keep_top_k(logits_BTV: jax.Array, k_B: jax.Array) -> jax.Array:
    """Masks all but the row's k largest logits; k = 0 keeps all."""
    size = logits_BTV.shape[-1]
    kept = jnp.where((k_B <= 0) | (k_B > size), size, k_B)[:, None, None]
    ordered = jnp.sort(logits_BTV, axis=-1, descending=True)
    least = jnp.take_along_axis(ordered, jnp.broadcast_to(kept - 1, (*ordered.shape[:2], 1)), axis=-1)
    return jnp.where(logits_BTV >= least, logits_BTV, -jnp.inf)


def keep_top_p(logits_BTV: jax.Array, p_B: jax.Array) -> jax.Array:
    """Masks all but the smallest set of the likeliest tokens whose probabilities reach the row's p; the likeliest one stays."""
    p = p_B[:, None, None]
    ordered = jnp.sort(logits_BTV, axis=-1, descending=True)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.sum(before < p, axis=-1, keepdims=True)
    least = jnp.take_along_axis(ordered, jnp.maximum(kept - 1, 0), axis=-1)
    return jnp.where((logits_BTV >= least) | (p >= 1.0), logits_BTV, -jnp.inf)
