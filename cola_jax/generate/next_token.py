"""The token loop of an autoregressive model: process the prompts, then generate tokens chunk by chunk.

Each function is one compiled program per shape; inside a chunk nothing is transferred to the host.
Axes: B batch, L padded prompt tokens, T tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cola_jax.config import RunConfig
from cola_jax.generate import tokens
from cola_jax.generate.keys import fold_rows
from cola_jax.generate.tokens import Choice, ChoiceValues
from cola_jax.models import build, layers
from cola_jax.models.backbone import causal
from cola_jax.models.build import BackboneNetworks
from cola_jax.models.cache import Caches, grow


class TokenState(NamedTuple):
    """The state carried from token to token."""

    cache: Caches
    length: jax.Array  # (B,) tokens in the cache
    seen: jax.Array  # (B, V) tokens generated so far
    logits: jax.Array  # (B, V) of the next token, fp32


class DecodedChunk(NamedTuple):
    """Generated tokens (B, T) int32, and log p of each under the model, independent of the sampler, (B, T) fp32."""

    tokens: jax.Array
    log_probs: jax.Array


@partial(jax.jit, static_argnums=(0, 4))
def read_prompt(
    networks: BackboneNetworks, params: Any, tokens_BL: jax.Array, length_B: jax.Array, new_tokens: int
) -> TokenState:
    """Fills the cache with prompts that end at `length_B` (at least 1), with room for new tokens.

    Positions after a prompt's end are never attended to: queries look back only, and new tokens overwrite it in the cache.
    """
    batch, longest = tokens_BL.shape
    net, variables = build.backbone(networks), {"params": params["backbone"]}
    hidden, cache = net.apply(variables, tokens_BL, jnp.arange(longest)[None], None, causal, method="hidden")
    last = jnp.take_along_axis(hidden, (length_B - 1)[:, None, None], axis=1)
    logits = net.apply(variables, last, method="to_logits")[:, 0]
    seen = jnp.zeros((batch, networks.backbone.vocab_size), bool)
    return TokenState(grow(cache, longest + new_tokens), length_B, seen, logits)


@partial(jax.jit, static_argnums=(0, 1, 7), donate_argnums=4)
def write_tokens(
    networks: BackboneNetworks,
    choice: Choice,
    params: Any,
    values: ChoiceValues,
    progress: TokenState,
    keys_B: jax.Array,
    first: jax.Array,
    count: int,
) -> tuple[DecodedChunk, TokenState]:
    """Generates `count` tokens. keys_B: one key per row; token `first + i` of a row is drawn from fold_in(key, first + i)."""
    net, backbone = build.backbone(networks), params["backbone"]
    if not networks.compute.scan_layers:
        backbone = {**backbone, "blocks": layers.split_layers(backbone["blocks"])}  # here, and not for every token
    variables, rows = {"params": backbone}, jnp.arange(keys_B.shape[0])

    def body(progress, place):
        keys = fold_rows(keys_B, place)
        chosen = tokens.choose(choice, values, progress.logits[:, None], progress.seen, keys)
        log_prob = jax.nn.log_softmax(progress.logits)[rows, chosen[:, 0]]
        logits, cache = net.apply(variables, chosen, progress.cache, progress.length, method="extend")
        seen = progress.seen.at[rows, chosen[:, 0]].set(True)
        return TokenState(cache, progress.length + 1, seen, logits[:, 0]), (chosen[:, 0], log_prob)

    progress, (chosen_TB, log_probs_TB) = jax.lax.scan(body, progress, first + jnp.arange(count))
    return DecodedChunk(chosen_TB.T, log_probs_TB.T), progress


def abstract_step(cfg: RunConfig, params: Any, rows: int, prompt: int, count: int) -> tuple[Any, tuple[Any, ...]]:
    """Returns `write_tokens` and its arguments as shapes: `count` tokens, after `rows` prompts of `prompt` tokens."""
    of, room, networks = jax.ShapeDtypeStruct, -(-cfg.sampling.max_new_tokens // count) * count, build.of_backbone(cfg)
    read = lambda params, tokens_BL, length_B: read_prompt(networks, params, tokens_BL, length_B, room)
    progress = jax.eval_shape(read, params, of((rows, prompt), "int32"), of((rows,), "int32"))
    choice, values = tokens.choice_of(cfg.sampling), jax.eval_shape(partial(tokens.values_of, cfg.sampling, rows))
    keys, first = of((rows, 2), "uint32"), of((), "int32")
    return write_tokens, (networks, choice, params, values, progress, keys, first, count)
