"""Stage 1: the Text VAE alone. L = -E log p(x | z0) + beta KL(q || N(0, I)) + lambda_mask L_mask (SPEC 2)."""

from __future__ import annotations

from typing import Any

import jax

from cola_jax.config import RunConfig
from cola_jax.families import vae_terms
from cola_jax.families.cost import Cost, of_parts
from cola_jax.families.family import Family, Objective, text_batch, trains_all

GROUPS = ("encoder", "decoder")


def draw(cfg: RunConfig, batch: dict[str, Any], rng: jax.Array, step: jax.Array) -> tuple[Any, Any]:
    noise = vae_terms.draw(cfg, batch, rng)
    return noise, vae_terms.count(cfg, batch, noise)


def loss(cfg: RunConfig, params: Any, frozen: Any, batch: Any, noise: Any, counts: Any, step: Any) -> tuple[Any, Any]:
    """Returns the microbatch's share of the stage 1 loss, in nats per token, and its sums."""
    where = vae_terms.layout(cfg, batch)
    encoded = vae_terms.encode(cfg, params, batch, noise, where)
    sums = vae_terms.decode_sums(cfg, params, batch, noise, encoded, where)
    sums |= vae_terms.posterior_sums(encoded.posterior, where)
    terms = vae_terms.per_token(cfg, sums, counts)
    objective = cfg.objective
    total = terms["reconstruction"] + objective.mask_weight * terms.get("mask", 0.0)
    if "kl" in terms:
        total = total + objective.kl_weight * terms["kl"]
    return total, sums | vae_terms.count(cfg, batch, noise)


def summarize(cfg: RunConfig, sums: dict[str, Any]) -> dict[str, Any]:
    return vae_terms.summarize(vae_terms.per_token(cfg, sums, sums))


def cost(cfg: RunConfig) -> Cost:
    return of_parts(cfg, vae_terms.init, vae_terms.cost_parts(cfg, trained=True), GROUPS)


FAMILY = Family(
    name="text_vae",
    groups=GROUPS,
    objective=Objective(vae_terms.init, text_batch, draw, loss, summarize, cost),
    training=trains_all(GROUPS),
    forms=("cola",),
)
