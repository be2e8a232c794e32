"""The masked diffusion baseline: the backbone without its causal mask predicts masked tokens (BASELINES 2).

The mask is a spare id of the vocabulary and has no parameters of its own: sizes and checkpoints are those of family ar.
Axes: B batch, L tokens, N padded tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import RunConfig, mask_id, without_kernels
from cola_jax.families.cost import TRAINED, Cost, CostPart, of_parts
from cola_jax.families.family import (
    Family,
    Generator,
    LikelihoodEstimator,
    Objective,
    text_batch,
    trains_all,
)
from cola_jax.families.keys import key_of, row_keys
from cola_jax.families.likelihood import Likelihood, MonteCarlo
from cola_jax.families.rows import RowOptions
from cola_jax.generate import unmask
from cola_jax.generate.keys import fold_rows
from cola_jax.generate.prompts import PromptBatch, PromptError, join_answers, pad_tokens
from cola_jax.models import build, flops, pairs
from cola_jax.models.backbone import bidirectional
from cola_jax.models.cross_entropy import chunked_cross_entropy

LEAST_PROBABILITY = 1e-3  # e in p = (1 - e) t + e
GROUPS = ("backbone",)
DRAWS = 128  # Monte Carlo draws of a likelihood


def init(cfg: RunConfig, rng: jax.Array) -> dict[str, Any]:
    """Returns new parameters {"backbone"}."""
    token = jnp.zeros((1, 1), jnp.int32)
    net = build.backbone(without_kernels(cfg))  # one token is no kernel's shape
    return {"backbone": net.init(key_of(rng, "backbone"), token, token, None, bidirectional)["params"]}


def draw(cfg: RunConfig, batch: dict[str, Any], rng: jax.Array, step: jax.Array) -> tuple[Any, Any]:
    """Draws each row's p, the length that the whole batch is cut to, and the masked tokens (B, L)."""
    rows, (count, length) = batch["rows"], batch["tokens"].shape
    t = jax.vmap(jax.random.uniform)(row_keys(rng, "t", rows))
    p = (1.0 - LEAST_PROBABILITY) * t + LEAST_PROBABILITY
    cut = jax.random.bernoulli(key_of(rng, "cut"), cfg.llada.random_length_probability)
    kept_length = jnp.where(cut, jax.random.randint(key_of(rng, "length"), (), 1, length + 1), length)
    noise = {"p": p, "length": jnp.broadcast_to(kept_length, (count,))}
    masked = jax.vmap(lambda key, p: jax.random.bernoulli(key, p, (length,)))(row_keys(rng, "masked", rows), p)
    noise["masked"] = masked & kept(batch, noise)
    return noise, {"tokens": jnp.sum(kept(batch, noise).astype(jnp.float32))}


def kept(batch: dict[str, jax.Array], noise: dict[str, jax.Array]) -> jax.Array:
    """The tokens (B, L) of the batch as it is cut: real ones in front of the drawn length."""
    return (batch["weights"] > 0) & (jnp.arange(batch["tokens"].shape[1]) < noise["length"][:, None])


def loss(cfg: RunConfig, params: Any, frozen: Any, batch: Any, noise: Any, counts: Any, step: Any) -> tuple[Any, Any]:
    """Returns the microbatch's share of sum(CE / p over masked tokens) / tokens, and its sums.

    A batch that is cut keeps its shape: positions after the cut are in segments of their own, which no kept token sees, is
    not masked, and is not counted. Padding is left out the same way.
    """
    net, variables = build.backbone(cfg), {"params": params["backbone"]}
    masked, inside = noise["masked"], kept(batch, noise)
    chex.assert_equal_shape((masked, inside, batch["tokens"]))
    tokens = jnp.where(masked, mask_id(cfg), batch["tokens"])
    segments = jnp.where(inside, batch["segments"], -1)
    hidden, _ = net.apply(variables, tokens, batch["positions"], segments, bidirectional, method="hidden")
    losses, correct = chunked_cross_entropy(
        lambda h: net.apply(variables, h, True, method="to_logits"),
        hidden,
        batch["tokens"],
        cfg.compute.cross_entropy_chunk,
    )
    sums = {
        "bound": jnp.sum(losses * masked / noise["p"][:, None]),
        "cross_entropy": jnp.sum(losses * masked),
        "correct": jnp.sum(correct * masked),
        "masked": jnp.sum(masked.astype(jnp.float32)),
        "tokens": jnp.sum(inside.astype(jnp.float32)),
    }
    return sums["bound"] / jnp.maximum(counts["tokens"], 1.0), sums


def summarize(cfg: RunConfig, sums: dict[str, Any]) -> dict[str, Any]:
    """Names the metrics: the bound on -log p in nats per token, and how well masked tokens are predicted."""
    tokens, masked = jnp.maximum(sums["tokens"], 1.0), jnp.maximum(sums["masked"], 1.0)
    bound = sums["bound"] / tokens
    return {
        "bound": bound,
        "bound_perplexity": jnp.exp(bound),
        "masked_cross_entropy": sums["cross_entropy"] / masked,
        "masked_accuracy": sums["correct"] / masked,
        "masked_share": sums["masked"] / tokens,
    }


def padded(cfg: RunConfig, texts: Sequence[Sequence[int]], rows: RowOptions) -> PromptBatch:
    """Returns texts as rows of one length.

    Raises:
      PromptError: for no texts, or one with a token that is the mask or outside the vocabulary.
    """
    batch = pad_tokens(texts, pad_id=rows.pad_id, vocab_size=cfg.backbone.vocab_size, least=rows.prompt_tokens)
    masked = [row for row, text in enumerate(texts) if mask_id(cfg) in text]
    if masked:
        raise PromptError(f"prompt {masked[0]} holds token {mask_id(cfg)}, the mask (llada.mask_id): text may not")
    return batch


def generate(
    cfg: RunConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    rows: RowOptions,
) -> Iterator[tuple[list[list[int]], jax.Array]]:
    """Continues prompts by cfg.sampling.max_new_tokens tokens, as cfg.sampling and its group llada specify.

    Args:
      prompts: token ids of each row; an empty prompt generates unconditionally.

    Yields:
      for each block of sampling.llada.block_length tokens, its new tokens by row, and the same as an array (B, M).

    Raises:
      PromptError: see `padded`.
    """
    batch, schedule = padded(cfg, prompts, rows), unmask.schedule_of(cfg)
    place, keys_B, program = rows.place, rows.keys(len(prompts)), unmask.program_of(cfg)
    canvas = unmask.Canvas(*map(place, unmask.canvas_of(cfg, batch.tokens, batch.known, rows.pad_id)))
    values = jax.tree.map(place, unmask.values_of(cfg.sampling, len(prompts)))
    fills = jnp.asarray(schedule.fills)
    for block in range(schedule.blocks):
        written, canvas = unmask.fill_block(
            program, params, values, canvas, keys_B, jnp.int32(block), fills, schedule.length
        )
        yield jax.device_get(written).tolist(), written


def log_likelihood(
    cfg: RunConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    rows: RowOptions,
    settings: MonteCarlo,
) -> Likelihood:
    """Returns a Monte Carlo lower bound on log p(answer | prompt) in nats, (B,): E over l ~ U{1..A} of (A / l) sum log p.

    The sum is over exactly l of the A answer tokens, masked without replacement. Lengths l of a row's draws lie on a grid of
    one random offset. Where every answer is a single token one draw is exact.

    Raises:
      PromptError: see `padded`; and for an empty answer.
    """
    whole = join_answers(prompts, answers)
    batch = padded(cfg, whole, rows)
    count_B = np.array([len(answer) for answer in answers], np.int32)
    single = count_B.max() == 1
    draws = 1 if single else settings.draws or DRAWS
    networks, keys_B = build.of_backbone(cfg), rows.keys(len(prompts))
    total = _sum_of_draws(networks, params, batch.tokens, batch.known, count_B, keys_B, mask_id(cfg), draws)
    return Likelihood(np.asarray(total) / draws, "exact" if single else "bound", {})


@partial(jax.jit, static_argnums=(0, 7))
def _sum_of_draws(networks, params, tokens_BN, end_B, count_B, keys_B, mask, draws):
    """The sum over draws of (A / l) sum log p, the last `count_B` tokens in front of `end_B` being the answer."""
    net, variables = build.backbone(networks), {"params": params["backbone"]}
    positions = jnp.broadcast_to(jnp.arange(tokens_BN.shape[1]), tokens_BN.shape)
    answer = (positions < end_B[:, None]) & (positions >= (end_B - count_B)[:, None])
    segments = (positions < end_B[:, None]).astype(jnp.int32)
    offset_B, chunk = jax.vmap(jax.random.uniform)(keys_B), networks.compute.cross_entropy_chunk

    def body(total_B, number):
        grid_B = jnp.mod(offset_B + number / draws, 1.0)
        hidden_B = jnp.minimum(1 + jnp.floor(grid_B * count_B).astype(jnp.int32), count_B)
        keys = fold_rows(keys_B, number)
        order = jax.vmap(lambda key: jax.random.uniform(key, tokens_BN.shape[1:]))(keys)
        rank = jnp.argsort(jnp.argsort(jnp.where(answer, order, 2.0), axis=-1), axis=-1)
        masked = answer & (rank < hidden_B[:, None])
        x_BN = jnp.where(masked, mask, tokens_BN)
        h, _ = net.apply(variables, x_BN, positions, segments, bidirectional, method="hidden")
        losses, _ = chunked_cross_entropy(
            lambda h: net.apply(variables, h, True, method="to_logits"), h, tokens_BN, chunk
        )
        return total_B - jnp.sum(losses * masked, axis=-1) * count_B / hidden_B, None

    return jax.lax.scan(body, jnp.zeros(tokens_BN.shape[0]), jnp.arange(draws))[0]


def cost(cfg: RunConfig) -> Cost:
    net, length = cfg.backbone, cfg.train.sequence_length
    works = {
        "backbone": flops.backbone(net, length, pairs.full(length)),
        "logits": flops.dense(length, net.dim, net.vocab_size),
    }
    return of_parts(cfg, init, {name: CostPart(work, TRAINED) for name, work in works.items()}, ("backbone",))


FAMILY = Family(
    name="llada",
    groups=GROUPS,
    objective=Objective(init, text_batch, draw, loss, summarize, cost),
    training=trains_all(GROUPS),
    generator=Generator(
        generate, unmask.abstract_step, reserved=lambda cfg: {mask_id(cfg): "the mask (llada.mask_id)"}
    ),
    likelihood=LikelihoodEstimator(log_likelihood, options=("draws",)),
    forms=("llama",),
)
