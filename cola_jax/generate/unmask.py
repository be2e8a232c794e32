"""The sampler of masked diffusion (BASELINES 2): each pass replaces a few masks by tokens, which are final.

`fill_block` is one compiled program per shape; inside a block of tokens nothing is transferred to the host.
Axes: B batch, N tokens of a row, G new tokens, M tokens of a block, T passes of a block, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import RunConfig, SamplingConfig, mask_id
from cola_jax.generate import tokens
from cola_jax.generate.keys import fold_rows
from cola_jax.generate.tokens import Choice, ChoiceValues
from cola_jax.models import build
from cola_jax.models.backbone import bidirectional
from cola_jax.models.build import BackboneNetworks


class Canvas(NamedTuple):
    """Rows of prompt, new tokens or masks, and padding: tokens and segments (B, N) int32; start (B,): the first new one."""

    tokens: jax.Array
    segments: jax.Array
    start: jax.Array


class Schedule(NamedTuple):
    """How the new tokens are filled: `blocks` blocks of `length` tokens, fills[i] of them in pass i of a block."""

    blocks: int
    length: int
    fills: np.ndarray


def schedule_of(cfg: RunConfig) -> Schedule:
    """From cfg.sampling: m masks in s passes are filled m // s per pass, and one more in the first m mod s."""
    new, chosen = cfg.sampling.max_new_tokens, cfg.sampling.llada
    length = chosen.block_length or new
    blocks = new // length
    passes = (chosen.steps or new) // blocks
    return Schedule(blocks, length, length // passes + (np.arange(passes) < length % passes).astype(np.int32))


def canvas_of(cfg: RunConfig, prompts_BL: np.ndarray, length_B: np.ndarray, pad_id: int) -> Canvas:
    """Adds cfg.sampling.max_new_tokens masks after prompts that end at `length_B`; nothing attends to the later padding."""
    index = np.arange(prompts_BL.shape[1] + cfg.sampling.max_new_tokens)
    start, end = length_B[:, None], length_B[:, None] + cfg.sampling.max_new_tokens
    room = np.pad(prompts_BL, ((0, 0), (0, cfg.sampling.max_new_tokens)), constant_values=pad_id)
    rows = np.where((index >= start) & (index < end), mask_id(cfg), room)
    return Canvas(jnp.asarray(rows, jnp.int32), jnp.asarray(index < end, jnp.int32), jnp.asarray(length_B, jnp.int32))


@dataclass(frozen=True)
class FillProgram:
    """Static arguments of `fill_block`. Values are `FillValues`.

    Attributes:
      mask_id: the masked token. new_tokens: of a row, in all blocks. guided: whether logits without prompt are computed.
      by_chance: remasking=random.
    """

    networks: BackboneNetworks
    mask_id: int
    new_tokens: int
    guided: bool
    by_chance: bool
    choice: Choice


class FillValues(NamedTuple):
    """guidance: w of u + (w + 1)(c - u) per row, (B,) fp32."""

    choice: ChoiceValues
    guidance: jax.Array


def program_of(cfg: RunConfig) -> FillProgram:
    """Returns the static arguments of `fill_block` for a config."""
    sampling, own = cfg.sampling, cfg.sampling.llada
    guided, by_chance = own.guidance > 0, own.remasking == "random"
    networks, choice = build.of_backbone(cfg), tokens.choice_of(sampling)
    return FillProgram(networks, mask_id(cfg), sampling.max_new_tokens, guided, by_chance, choice)


def values_of(sampling: SamplingConfig, rows: int) -> FillValues:
    """Returns the values of a sampling config, the same for each row."""
    return FillValues(tokens.values_of(sampling, rows), jnp.full(rows, sampling.llada.guidance, jnp.float32))


@partial(jax.jit, static_argnums=(0, 7), donate_argnums=3)
def fill_block(
    program: FillProgram,
    params: Any,
    values: FillValues,
    canvas: Canvas,
    keys_B: jax.Array,
    block: jax.Array,
    fills_T: jax.Array,
    length: int,
) -> tuple[jax.Array, Canvas]:
    """Fills block number `block` of `length` new tokens, fills_T[i] of them in pass i. Returns its tokens (B, M), and all.

    keys_B: one key per row; pass i of the block draws from fold_in(key, passes before it).
    """
    begin = canvas.start + block * length
    rows = jnp.arange(keys_B.shape[0])[:, None]
    places = begin[:, None] + jnp.arange(length)
    positions = jnp.broadcast_to(jnp.arange(canvas.tokens.shape[1]), canvas.tokens.shape)
    prompt = positions < canvas.start[:, None]
    new = canvas.start[:, None] + jnp.arange(program.new_tokens)
    mask, vocabulary = program.mask_id, program.networks.backbone.vocab_size

    def body(x_BN, step):
        fill, number = step
        keys = fold_rows(keys_B, number)
        logits = _logits(program, params, values.guidance, x_BN, positions, canvas.segments, prompt, places)
        written = jnp.zeros((x_BN.shape[0], vocabulary), bool).at[rows, x_BN[rows, new]].set(True)
        chosen = tokens.choose(program.choice, values.choice, logits, written, keys)
        held = x_BN[rows, places]
        confidence = jnp.where(held == mask, _confidence(program, logits, chosen, keys), -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-confidence, axis=-1), axis=-1)
        filled = jnp.where((rank < fill) & (held == mask), chosen, held)
        return x_BN.at[rows, places].set(filled), None

    passes = fills_T.shape[0]
    x_BN, _ = jax.lax.scan(body, canvas.tokens, (fills_T, block * passes + jnp.arange(passes)))
    return x_BN[rows, places], canvas._replace(tokens=x_BN)


def abstract_step(cfg: RunConfig, params: Any, rows: int, prompt: int) -> tuple[Any, tuple[Any, ...]]:
    """Returns `fill_block` and its arguments as shapes, for `rows` prompts of `prompt` tokens."""
    of, schedule = jax.ShapeDtypeStruct, schedule_of(cfg)
    tokens = of((rows, prompt + cfg.sampling.max_new_tokens), "int32")
    canvas = Canvas(tokens, tokens, of((rows,), "int32"))
    fills = of(schedule.fills.shape, "int32")
    keys, block = of((rows, 2), "uint32"), of((), "int32")
    values = jax.eval_shape(partial(values_of, cfg.sampling, rows))
    return fill_block, (program_of(cfg), params, values, canvas, keys, block, fills, schedule.length)


def _logits(program, params, guidance_B, x_BN, positions, segments, prompt, places_BM):
    """Logits (B, M, V) of the tokens at `places`, guided per row; the mask itself is never chosen."""
    net, variables, copies = build.backbone(program.networks), {"params": params["backbone"]}, 1
    if program.guided:
        x_BN, copies = jnp.concatenate([x_BN, jnp.where(prompt, program.mask_id, x_BN)]), 2
    again = lambda x: jnp.concatenate([x] * copies)
    hidden, _ = net.apply(variables, x_BN, again(positions), again(segments), bidirectional, method="hidden")
    own = jnp.take_along_axis(hidden, again(places_BM)[..., None], axis=1)
    logits = net.apply(variables, own, method="to_logits")
    if program.guided:
        c, u = jnp.split(logits, 2)
        logits = u + (guidance_B[:, None, None] + 1.0) * (c - u)
    return logits.at[..., program.mask_id].set(-jnp.inf)


def _confidence(program, logits_BMV, chosen_BM, keys_B):
    """The priority by which candidates are kept: their probability, or random."""
    if program.by_chance:
        chance = lambda key: jax.random.uniform(jax.random.fold_in(key, 1), chosen_BM.shape[1:])
        return jax.vmap(chance)(keys_B)
    probabilities = jax.nn.softmax(logits_BMV, axis=-1)
    return jnp.take_along_axis(probabilities, chosen_BM[..., None], axis=-1)[..., 0]
