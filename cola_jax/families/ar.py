"""The autoregressive baseline: next-token cross-entropy over the causal backbone (SPEC 5).

Axes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import RunConfig, without_kernels
from cola_jax.families.cost import TRAINED, Cost, CostPart, of_parts
from cola_jax.families.family import (
    Family,
    Generator,
    LikelihoodEstimator,
    Objective,
    text_batch,
    trains_all,
)
from cola_jax.families.keys import key_of
from cola_jax.families.likelihood import Likelihood, MonteCarlo
from cola_jax.families.rows import RowOptions
from cola_jax.generate import next_token, tokens
from cola_jax.generate.next_token import DecodedChunk
from cola_jax.generate.prompts import PromptError, join_answers, pad_tokens
from cola_jax.models import build, flops, pairs
from cola_jax.models.backbone import causal
from cola_jax.models.cross_entropy import chunked_cross_entropy

CHUNK = 16  # tokens generated per call of the compiled loop
GROUPS = ("backbone",)


def init(cfg: RunConfig, rng: jax.Array) -> dict[str, Any]:
    """Returns new parameters {"backbone"}."""
    token = jnp.zeros((1, 1), jnp.int32)
    net = build.backbone(without_kernels(cfg))  # one token is no kernel's shape
    return {"backbone": net.init(key_of(rng, "backbone"), token, token, None, causal)["params"]}


def next_tokens(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the token after each position, and 1 if it is predicted: in the same document, and not padding."""
    tokens, segments, weights = batch["tokens"], batch["segments"], batch["weights"]
    same = (segments[:, 1:] == segments[:, :-1]).astype(weights.dtype)
    behind = ((0, 0), (0, 1))
    return jnp.pad(tokens[:, 1:], behind), jnp.pad(weights[:, 1:] * same, behind)


def draw(cfg: RunConfig, batch: dict[str, Any], rng: jax.Array, step: jax.Array) -> tuple[Any, Any]:
    """Draws nothing; counts the predicted tokens."""
    return {}, {"tokens": jnp.sum(next_tokens(batch)[1])}


def loss(cfg: RunConfig, params: Any, frozen: Any, batch: Any, noise: Any, counts: Any, step: Any) -> tuple[Any, Any]:
    """Returns the microbatch's share of -log p of the predicted tokens, in nats per token, and its sums."""
    net, variables = build.backbone(cfg), {"params": params["backbone"]}
    segments = None if cfg.data.packing == "concat" else batch["segments"]
    hidden, _ = net.apply(variables, batch["tokens"], batch["positions"], segments, causal, method="hidden")
    targets, weights = next_tokens(batch)
    losses, correct = chunked_cross_entropy(
        lambda h: net.apply(variables, h, True, method="to_logits"), hidden, targets, cfg.compute.cross_entropy_chunk
    )
    sums = {
        "cross_entropy": jnp.sum(losses * weights),
        "correct": jnp.sum(correct * weights),
        "tokens": jnp.sum(weights),
    }
    return sums["cross_entropy"] / jnp.maximum(counts["tokens"], 1.0), sums


def summarize(cfg: RunConfig, sums: dict[str, Any]) -> dict[str, Any]:
    tokens = jnp.maximum(sums["tokens"], 1.0)
    nats = sums["cross_entropy"] / tokens
    return {"cross_entropy": nats, "perplexity": jnp.exp(nats), "accuracy": sums["correct"] / tokens}


def generate(
    cfg: RunConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    rows: RowOptions,
) -> Iterator[tuple[list[list[int]], DecodedChunk]]:
    """Continues prompts, token by token, as cfg.sampling specifies.

    Args:
      prompts: token ids of each row, at least one: the model has no distribution of a document's first token.

    Yields:
      for each chunk of at most CHUNK tokens, its new tokens by row, and the chunk itself.

    Raises:
      PromptError: for no prompts, an empty one, or a token outside the vocabulary.
    """
    batch = pad_tokens(
        prompts, pad_id=rows.pad_id, vocab_size=cfg.backbone.vocab_size, least=rows.prompt_tokens,
        empty="family 'ar' continues a text of at least one token",
    )  # fmt: skip
    keys_B, place = rows.keys(len(prompts)), rows.place
    count = min(CHUNK, cfg.sampling.max_new_tokens)
    chunks = -(-cfg.sampling.max_new_tokens // count)
    networks, choice = build.of_backbone(cfg), tokens.choice_of(cfg.sampling)
    values = jax.tree.map(place, tokens.values_of(cfg.sampling, len(prompts)))
    progress = next_token.read_prompt(networks, params, place(batch.tokens), place(batch.known), chunks * count)
    for index in range(chunks):
        first = jnp.int32(index * count)
        chunk, progress = next_token.write_tokens(networks, choice, params, values, progress, keys_B, first, count)
        yield jax.device_get(chunk.tokens).tolist(), chunk


def cost(cfg: RunConfig) -> Cost:
    net, length = cfg.backbone, cfg.train.sequence_length
    works = {
        "backbone": flops.backbone(net, length, pairs.block_causal(length, 1, cfg.compute)),
        "logits": flops.dense(length, net.dim, net.vocab_size),
    }
    return of_parts(cfg, init, {name: CostPart(work, TRAINED) for name, work in works.items()}, ("backbone",))


def log_likelihood(
    cfg: RunConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    rows: RowOptions,
    settings: MonteCarlo,
) -> Likelihood:
    """Returns log p(answer | prompt), exactly; no Monte Carlo setting is read.

    Raises:
      PromptError: for an empty prompt or answer, or a token outside the vocabulary.
    """
    whole = join_answers(prompts, answers)
    empty = [row for row, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise PromptError(f"prompt {empty[0]} is empty: family 'ar' estimates the likelihood of a text after another")
    batch = pad_tokens(whole, pad_id=rows.pad_id, vocab_size=cfg.backbone.vocab_size, least=rows.prompt_tokens)
    first = np.array([len(prompt) for prompt in prompts], np.int32)
    return Likelihood(np.asarray(_log_p(build.of_backbone(cfg), params, batch.tokens, first, batch.known)), "exact", {})


@partial(jax.jit, static_argnums=0)
def _log_p(networks, params, tokens_BL, first_B, end_B):
    """The sum of log p of tokens first .. end - 1 of each row."""
    net, variables = build.backbone(networks), {"params": params["backbone"]}
    positions = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    hidden, _ = net.apply(variables, tokens_BL, positions, None, causal, method="hidden")
    losses, _ = chunked_cross_entropy(
        lambda h: net.apply(variables, h, True, method="to_logits"),
        hidden[:, :-1],
        tokens_BL[:, 1:],
        networks.compute.cross_entropy_chunk,
    )
    place = positions[:, 1:]
    return -jnp.sum(losses * ((place >= first_B[:, None]) & (place < end_B[:, None])), axis=-1)


FAMILY = Family(
    name="ar",
    groups=GROUPS,
    objective=Objective(init, text_batch, draw, loss, summarize, cost),
    training=trains_all(GROUPS),
    generator=Generator(generate, partial(next_token.abstract_step, count=CHUNK), needs_prompt=True),
    likelihood=LikelihoodEstimator(log_likelihood, options=(), exact=True),
    forms=("llama",),
)
