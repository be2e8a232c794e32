"""The embedding diffusion baseline: token embeddings, noise schedule and network learnt by one bound (BASELINES 3).

-log p(x) <= reconstruction at t = 0 + prior at t = 1 + diffusion between them, in nats per token. The schedule's shape g
minimises the mean square of the diffusion term instead, everything else the bound.
Axes: B batch, L tokens, E embedding channels, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import RunConfig
from cola_jax.diffusion import noise_schedule
from cola_jax.families.cost import FORWARD, TRAINED, Cost, CostPart, of_parts
from cola_jax.families.family import (
    Family,
    Generator,
    LikelihoodEstimator,
    Objective,
    Training,
    text_batch,
)
from cola_jax.families.keys import key_of, row_keys
from cola_jax.families.likelihood import Likelihood, MonteCarlo
from cola_jax.families.rows import RowOptions
from cola_jax.generate import embedding_diffusion
from cola_jax.generate.keys import fold_rows
from cola_jax.generate.prompts import PromptBatch, join_answers, pad_tokens
from cola_jax.models import build, flops, pairs
from cola_jax.models.denoiser import FREQUENCIES, estimate, new_table

DRAWS = 32  # Monte Carlo draws of a likelihood
GROUPS = ("backbone", "embedding", "schedule")


def init(cfg: RunConfig, rng: jax.Array) -> dict[str, Any]:
    """Returns new parameters {"backbone", "embedding", "schedule"}."""
    plaid = cfg.plaid
    example = (jnp.zeros((1, 1, plaid.embedding_dim)), jnp.zeros(1), jnp.zeros((1, 1), jnp.int32))
    return {
        "backbone": build.denoiser(cfg).init(key_of(rng, "backbone"), *example)["params"],
        "embedding": {"table": new_table(cfg.backbone, plaid, key_of(rng, "embedding"))},
        "schedule": noise_schedule.init(key_of(rng, "schedule"), plaid.gamma_0, plaid.gamma_1, plaid.schedule_width),
    }


def draw(cfg: RunConfig, batch: dict[str, Any], rng: jax.Array, step: jax.Array) -> tuple[Any, Any]:
    """Draws each row's part (reconstruction or diffusion), its time, its noise, and whether it conditions on itself.

    Parts and times lie on a grid over the global batch with one random offset.
    """
    rows, (count, length), share = batch["rows"], batch["tokens"].shape, cfg.plaid.reconstruction_share
    grid = jnp.mod(jax.random.uniform(key_of(rng, "offset")) + rows / count, 1.0)
    normal = jax.vmap(lambda key: jax.random.normal(key, (length, cfg.plaid.embedding_dim)))
    chance = jax.vmap(lambda key: jax.random.bernoulli(key, cfg.plaid.self_condition_probability))
    noise = {
        "reconstructs": grid < share,
        "t": jnp.maximum(grid - share, 0.0) / (1.0 - share),
        "eps": normal(row_keys(rng, "eps", rows)),
        "conditions": chance(row_keys(rng, "conditions", rows)),
    }
    return noise, {"tokens": jnp.sum(batch["weights"])}


def loss(cfg: RunConfig, params: Any, frozen: Any, batch: Any, noise: Any, counts: Any, step: Any) -> tuple[Any, Any]:
    """Returns the microbatch's share of the bound in nats per token, and its sums."""
    shape = noise_schedule.shape_of(params["schedule"], noise["t"])
    shape = jnp.where(noise["reconstructs"][:, None], jnp.array([0.0, 1.0]), shape)
    warmup = cfg.plaid.bias_warmup_steps
    bias = jnp.minimum(step / warmup, 1.0) if warmup else 1.0
    seen = batch | {"segments": None} if cfg.data.packing == "concat" else batch
    networks = build.of_plaid(cfg)
    rows = squared_for_the_schedule(lambda shape, free: row_terms(networks, free, shape, seen, noise, bias))
    terms = rows(shape, params)
    share, tokens = cfg.plaid.reconstruction_share, jnp.sum(batch["weights"], axis=1)
    reconstructs = noise["reconstructs"].astype(jnp.float32)
    bound = {
        "reconstruction": terms["reconstruction"] * tokens * reconstructs / share,
        "diffusion": terms["diffusion"] * tokens * (1.0 - reconstructs) / (1.0 - share),
        "prior": terms["prior"] * tokens,
    }
    sums = {name: jnp.sum(value) for name, value in bound.items()}
    total = sum(sums.values()) / jnp.maximum(counts["tokens"], 1.0)
    sums["correct"] = jnp.sum(terms["correct"] * tokens * (1.0 - reconstructs))
    sums["diffused"] = jnp.sum(tokens * (1.0 - reconstructs))
    return total, sums | {"tokens": jnp.sum(tokens)}


def row_terms(
    networks: build.PlaidNetworks, params: Any, shape_B2: jax.Array, batch: Any, noise: Any, bias: Any
) -> dict[str, Any]:
    """Returns, for each row, (B,): reconstruction, diffusion and prior in nats per token, and the share of right tokens.

    Every row has all of them, at its own time; the loss takes of each what its part is. The first pass of self-conditioning
    passes no gradient on. Documents of a row see each other if batch["segments"] is None.
    """
    chex.assert_shape(shape_B2, (batch["tokens"].shape[0], 2))
    gamma, slope = noise_schedule.gamma_of(params["schedule"], shape_B2)
    alpha, sigma = noise_schedule.scales(gamma)
    table = embedding_diffusion.unit_rows(params["embedding"]["table"])
    clean = jnp.take(table, batch["tokens"], axis=0)
    z = alpha[:, None, None] * clean + sigma[:, None, None] * noise["eps"]
    place = batch["positions"], batch["segments"]
    read = lambda p, table, z, earlier, gamma: estimate(
        build.denoiser(networks), p["backbone"], table, z, earlier, gamma, bias, place, batch["tokens"]
    )
    earlier = jnp.zeros_like(z)
    if networks.plaid.self_condition_probability > 0:
        first = read(*jax.lax.stop_gradient((params, table, z, earlier, gamma))).embeddings
        earlier = jnp.where(noise["conditions"][:, None, None], jax.lax.stop_gradient(first), 0.0)
    found = read(params, table, z, earlier, gamma)
    tokens = jnp.maximum(jnp.sum(batch["weights"], axis=1), 1.0)
    mean = lambda values_BL: jnp.sum(values_BL * batch["weights"], axis=1) / tokens
    distance = jnp.sum(jnp.square(clean - found.embeddings), axis=-1)
    return {
        "reconstruction": mean(found.losses),
        "diffusion": 0.5 * jnp.exp(-gamma) * slope * mean(distance),  # 1/2 SNR gamma' |e - x_hat|^2
        "prior": mean(prior(params["schedule"]["highest"], clean)),
        "correct": mean(found.correct),
    }


def prior(highest: jax.Array, clean_BLE: jax.Array) -> jax.Array:
    """KL(N(alpha_1 e, sigma_1^2) || N(0, I)) of every token, (B, L)."""
    variance = jax.nn.sigmoid(highest)
    square = jax.nn.sigmoid(-highest) * jnp.square(clean_BLE)
    return 0.5 * jnp.sum(square + variance - 1.0 - jnp.log(variance), axis=-1)


def squared_for_the_schedule(rows: Any) -> Any:
    """Returns `rows`, (shape (B, 2), params) -> terms by row, with the gradient of shape that of the mean square.

    d(l^2) = 2 l dl, row by row: a row's diffusion term l depends on its own time alone.
    """

    @jax.custom_vjp
    def scaled(shape, params):
        return rows(shape, params)

    def forward(shape, params):
        terms, pull = jax.vjp(rows, shape, params)
        return terms, (pull, terms["diffusion"])

    def backward(kept, cotangents):
        pull, diffusion = kept
        shape, params = pull(cotangents)
        return 2.0 * diffusion[:, None] * shape, params

    scaled.defvjp(forward, backward)
    return scaled


def summarize(cfg: RunConfig, sums: dict[str, Any]) -> dict[str, Any]:
    """Names the metrics: the bound on -log p and its terms in nats per token, and how many tokens of noised rows are right."""
    tokens = jnp.maximum(sums["tokens"], 1.0)
    terms = {name: sums[name] / tokens for name in ("reconstruction", "diffusion", "prior")}
    bound = sum(terms.values())
    accuracy = sums["correct"] / jnp.maximum(sums["diffused"], 1.0)
    return terms | {"bound": bound, "bound_perplexity": jnp.exp(bound), "accuracy": accuracy}


def generate(
    cfg: RunConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    rows: RowOptions,
) -> Iterator[tuple[list[list[int]], jax.Array]]:
    """Continues prompts by cfg.sampling.max_new_tokens tokens, all at once, as cfg.sampling.plaid specifies.

    Args:
      prompts: token ids of each row; an empty prompt generates unconditionally.

    Yields:
      once: the new tokens by row, and the same as an array.

    Raises:
      PromptError: for no prompts, or a token outside the vocabulary.
    """
    batch, place, keys_B = padded(cfg, prompts, rows), rows.place, rows.keys(len(prompts))
    canvas = embedding_diffusion.EmbeddingCanvas(
        *map(place, embedding_diffusion.canvas_of(cfg, batch.tokens, batch.known))
    )
    sampling = cfg.sampling
    temperature = place(jnp.full(len(prompts), sampling.plaid.score_temperature, jnp.float32))
    written = embedding_diffusion.denoise(
        build.of_plaid(cfg), sampling.plaid.steps, sampling.max_new_tokens, params, canvas, temperature, keys_B
    )
    yield jax.device_get(written).tolist(), written


def padded(cfg: RunConfig, texts: Sequence[Sequence[int]], rows: RowOptions) -> PromptBatch:
    """Returns texts as rows of one length."""
    return pad_tokens(texts, pad_id=rows.pad_id, vocab_size=cfg.backbone.vocab_size, least=rows.prompt_tokens)


def log_likelihood(
    cfg: RunConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    rows: RowOptions,
    settings: MonteCarlo,
) -> Likelihood:
    """Estimates log p(prompt, answer) - log p(prompt) from the same draws; of an empty prompt it is a lower bound.

    Self-conditioned always. Times of a row's draws lie on a grid of one random offset; reconstruction takes one draw each.

    Raises:
      PromptError: for an empty answer, and see `pad_tokens`.
    """
    whole = join_answers(prompts, answers)
    longest = dataclasses.replace(rows, prompt_tokens=max(rows.prompt_tokens, max(map(len, whole))))
    networks, keys_B, draws = build.of_plaid(cfg), rows.keys(len(whole)), settings.draws or DRAWS

    def of(texts):
        batch = padded(cfg, texts, longest)
        return _bound(networks, params, batch.tokens, batch.known, keys_B, draws)

    terms, kind = of(whole), "bound"
    if any(len(prompt) for prompt in prompts):
        before = of(prompts)
        terms, kind = {name: terms[name] - before[name] for name in terms}, "difference"
    means = {f"log_{name}": -np.asarray(value) for name, value in terms.items()}
    return Likelihood(sum(means.values()), kind, means)


@partial(jax.jit, static_argnums=(0, 5))
def _bound(networks, params, tokens_BL, length_B, keys_B, draws):
    """Returns the terms of the bound on -log p, summed over the first `length_B` tokens of each row, the mean of `draws`."""
    batch, length = tokens_BL.shape
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    inside = positions < length_B[:, None]
    row = {"tokens": tokens_BL, "positions": positions, "segments": inside.astype(jnp.int32),
           "weights": inside.astype(jnp.float32)}  # fmt: skip
    conditioned = dataclasses.replace(networks.plaid, self_condition_probability=1.0)
    networks = dataclasses.replace(networks, plaid=conditioned)
    offset_B = jax.vmap(lambda key: jax.random.uniform(key_of(key, "offset")))(keys_B)

    def once(number):
        keys = fold_rows(keys_B, number)
        t = jnp.mod(offset_B + number / draws, 1.0)
        shape, start = noise_schedule.shape_of(params["schedule"], t), jnp.array([0.0, 1.0])

        def at(shape, name):
            eps = jax.vmap(lambda key: jax.random.normal(key_of(key, name), (length, conditioned.embedding_dim)))(keys)
            noise = {"eps": eps, "conditions": jnp.ones(batch, bool)}
            return row_terms(networks, params, shape, row, noise, 1.0)

        clean, noised = at(jnp.broadcast_to(start, shape.shape), "start"), at(shape, "noised")
        return {
            "reconstruction": clean["reconstruction"],
            "diffusion": noised["diffusion"],
            "prior": noised["prior"],
        }

    per_token = jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.lax.map(once, jnp.arange(draws)))
    return jax.tree.map(lambda x: x * length_B, per_token)


def training(cfg: RunConfig, step: int) -> Training:
    ratio = cfg.plaid.schedule_lr_ratio
    return Training(GROUPS, {"backbone": 1.0, "embedding": ratio, "schedule": ratio})


def cost(cfg: RunConfig) -> Cost:
    """Both passes of every row: that of self-conditioning is run for all, whoever uses it."""
    net, length, channels = cfg.backbone, cfg.train.sequence_length, cfg.plaid.embedding_dim
    ends = flops.dense(length, channels, net.dim).times(2) + flops.dense(1, 2 * FREQUENCIES, net.dim)
    works = {
        "backbone": ends + flops.backbone(net, length, pairs.full(length)),
        "logits": flops.dense(length, net.dim + 2 * channels, net.vocab_size),
    }
    parts = {name: CostPart(work, TRAINED) for name, work in works.items()}
    if cfg.plaid.self_condition_probability > 0:
        parts |= {f"{name} of the first pass": CostPart(work, FORWARD) for name, work in works.items()}
    return of_parts(cfg, init, parts, GROUPS)


FAMILY = Family(
    name="plaid",
    groups=GROUPS,
    objective=Objective(init, text_batch, draw, loss, summarize, cost),
    training=training,
    generator=Generator(generate, embedding_diffusion.abstract_step),
    likelihood=LikelihoodEstimator(log_likelihood, options=("draws",)),
)
