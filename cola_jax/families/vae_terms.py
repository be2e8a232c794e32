"""Operations of both stages on the Text VAE: encode, sample, decode, and the terms of its objective (SPEC 2).

Axes: B batch, L tokens, N = L / P latents, C latent channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cola_jax.config import RunConfig, without_kernels
from cola_jax.families.cost import FORWARD, TRAINED, CostPart
from cola_jax.families.keys import key_of, row_keys
from cola_jax.models import build, flops
from cola_jax.models.cross_entropy import chunked_cross_entropy
from cola_jax.models.text_vae import Posterior

LOG_2PI_E = 2.8378770664093453


class LatentPositions(NamedTuple):
    """A batch by latents: positions (B, N) int32, segments (B, N) or None, weights (B, N), 1 inside a document."""

    positions: jax.Array
    segments: jax.Array | None
    weights: jax.Array


def init(cfg: RunConfig, rng: jax.Array) -> dict[str, Any]:
    """Returns new parameters {"encoder", "decoder"}."""
    cfg, patch = without_kernels(cfg), cfg.vae.patch_size  # one position is no kernel's shape
    position = jnp.zeros((1, 1), jnp.int32)
    encoder_params = build.encoder(cfg).init(key_of(rng, "encoder"), jnp.zeros((1, patch), jnp.int32), position, None)
    latent = jnp.zeros((1, 1, cfg.vae.latent_dim))
    decoder_params = build.decoder(cfg).init(key_of(rng, "decoder"), latent, position, None)
    return {"encoder": encoder_params["params"], "decoder": decoder_params["params"]}


def layout(cfg: RunConfig, batch: dict[str, jax.Array]) -> LatentPositions:
    """Reads positions and segments of the latents off those of the tokens."""
    patch = cfg.vae.patch_size
    segments = batch["segments"][:, ::patch]
    positions = batch["positions"][:, ::patch] // patch
    packed = cfg.data.packing != "concat"
    return LatentPositions(positions, segments if packed else None, (segments > 0).astype(jnp.float32))


def is_fixed(cfg: RunConfig) -> bool:
    """Whether no step trains the VAE: its terms are then constants of the loss, and are left out of it."""
    return cfg.family == "cola" and cfg.objective.latent_policy == "fixed"


def masks(cfg: RunConfig) -> bool:
    """Whether rows go through the VAE a second time, with masked tokens."""
    return not is_fixed(cfg) and cfg.objective.mask_weight > 0


def draw(cfg: RunConfig, batch: dict[str, jax.Array], rng: jax.Array) -> dict[str, jax.Array]:
    """Posterior noise (B, N, C) and masked tokens (B, L) of a global batch."""
    rows, (_, length) = batch["rows"], batch["tokens"].shape
    shape = (length // cfg.vae.patch_size, cfg.vae.latent_dim)
    noise = {"posterior": normal(row_keys(rng, "posterior", rows), shape)}
    if masks(cfg):
        choose = jax.vmap(lambda key: jax.random.bernoulli(key, cfg.objective.mask_rate, (length,)))
        noise["masked"] = choose(row_keys(rng, "masked", rows)) & (batch["weights"] > 0)
        noise["posterior_masked"] = normal(row_keys(rng, "posterior_masked", rows), shape)
    return noise


def count(cfg: RunConfig, batch: dict[str, jax.Array], noise: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """How many tokens, latents and masked tokens the VAE's terms are averaged over."""
    counts = {"tokens": jnp.sum(batch["weights"]), "latents": jnp.sum(layout(cfg, batch).weights)}
    if "masked" in noise:
        counts["masked"] = jnp.sum(noise["masked"].astype(jnp.float32))
    return counts


@partial(jax.jit, static_argnums=1)
def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """N(0, I) of `shape` for each of B keys: (B, *shape) fp32."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


class Encoded(NamedTuple):
    """The rows unchanged and, if the mask loss is on, with masked tokens, each beside its row in the batch axis."""

    posterior: Posterior  # of the rows as they are
    z0: jax.Array  # (B, N, C) samples
    all_z0: jax.Array  # (B or 2B, N, C): those and the masked rows' samples, in turns
    copies: int


def encode(
    cfg: RunConfig, params: Any, batch: dict[str, Any], noise: dict[str, Any], where: LatentPositions
) -> Encoded:
    """Encodes and samples z0 = mu + sigma eps, clean and masked rows in one pass."""
    tokens, eps, copies = batch["tokens"], noise["posterior"], 1
    if "masked" in noise:
        masked = jnp.where(noise["masked"], cfg.vae.vocab_size, tokens)  # row V of the embedding is the mask token
        tokens, copies = interleave(tokens, masked), 2
        eps = interleave(eps, noise["posterior_masked"])
    both = repeat(where, copies)
    posterior = posterior_of(cfg, params, tokens, both, copies)
    z0 = posterior.mean if posterior.logvar is None else posterior.mean + jnp.exp(0.5 * posterior.logvar) * eps
    first = lambda leaf: deinterleave(leaf, copies)[:, 0]
    return Encoded(jax.tree.map(first, posterior), first(z0), z0, copies)


def interleave(*copies: jax.Array) -> jax.Array:
    """Returns copies of a batch, the copies of a row next to each other: none moves if rows are split over devices."""
    together = jnp.stack(copies, axis=1)
    return together.reshape(-1, *together.shape[2:])


def deinterleave(x: jax.Array, copies: int) -> jax.Array:
    """The inverse of `interleave`: (copies B, ...) -> (B, copies, ...)."""
    return x.reshape(-1, copies, *x.shape[1:])


def posterior_of(
    cfg: RunConfig, params: Any, tokens_BL: jax.Array, where: LatentPositions, copies: int = 1
) -> Posterior:
    """q_phi of token rows, its variance set by `fixed_logsnr` if the config sets it, for each of the batch's copies."""
    posterior = build.encoder(cfg).apply({"params": params["encoder"]}, tokens_BL, where.positions, where.segments)
    if cfg.vae.fixed_logsnr is None:
        return posterior
    squares = deinterleave(jnp.square(posterior.mean) * where.weights[..., None], copies)
    total = jnp.sum(squares, axis=(0, 2, 3))[:, None, None]
    latents = jnp.sum(deinterleave(where.weights, copies), axis=(0, 2))[:, None, None]
    power = jnp.where(latents > 0, total / jnp.maximum(latents * cfg.vae.latent_dim, 1.0), 1.0)
    logvar = jax.lax.stop_gradient(jnp.log(power)) - cfg.vae.fixed_logsnr  # sigma^2 = mean(mu^2) e^{-logSNR}, SPEC 2
    shape = posterior.mean.shape
    return Posterior(
        posterior.mean, jnp.broadcast_to(logvar, deinterleave(posterior.mean, copies).shape).reshape(shape)
    )


def decode_sums(
    cfg: RunConfig, params: Any, batch: dict[str, Any], noise: dict[str, Any], encoded: Encoded, where: LatentPositions
) -> dict[str, jax.Array]:
    """Sums over tokens of the reconstruction and mask cross-entropies and of correctly reconstructed tokens."""
    net, variables = build.decoder(cfg), {"params": params["decoder"]}
    both = repeat(where, encoded.copies)
    hidden, _ = net.apply(variables, encoded.all_z0, both.positions, both.segments, method="hidden")
    targets = interleave(*[batch["tokens"]] * encoded.copies)
    losses, correct = chunked_cross_entropy(
        lambda h: net.apply(variables, h, True, method="to_logits"), hidden, targets, cfg.compute.cross_entropy_chunk
    )
    losses, correct = deinterleave(losses, encoded.copies), deinterleave(correct, encoded.copies)
    sums = {
        "reconstruction": jnp.sum(losses[:, 0] * batch["weights"]),
        "correct": jnp.sum(correct[:, 0] * batch["weights"]),
    }
    if encoded.copies == 2:
        sums["mask"] = jnp.sum(losses[:, 1] * noise["masked"])
    return sums


def posterior_sums(posterior: Posterior, where: LatentPositions) -> dict[str, jax.Array]:
    """Sums over latents of mean^2, variance, KL to N(0, I) and E log q, channels added up."""
    weights = where.weights[..., None]
    sums = {"mean_square": jnp.sum(jnp.square(posterior.mean) * weights)}
    if posterior.logvar is not None:
        mean, logvar = posterior
        variance = jnp.exp(logvar)
        sums["variance"] = jnp.sum(variance * weights)
        sums["kl"] = jnp.sum(0.5 * (jnp.square(mean) + variance - 1.0 - logvar) * weights)
        sums["log_q"] = -0.5 * jnp.sum((LOG_2PI_E + logvar) * weights)  # E log q of a Gaussian, in closed form
    return sums


def kl_between(q: Posterior, reference: Posterior, where: LatentPositions) -> jax.Array:
    """Sum over latents and channels of KL(q || reference)."""
    ratio = jnp.exp(q.logvar - reference.logvar)
    distance = jnp.square(q.mean - reference.mean) * jnp.exp(-reference.logvar)
    return jnp.sum(0.5 * (ratio + distance - 1.0 + reference.logvar - q.logvar) * where.weights[..., None])


def per_token(cfg: RunConfig, sums: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    """Divides the VAE's sums by their counts: nats per token, shares, and means over channels."""
    counts = {name: jnp.maximum(value, 1.0) for name, value in counts.items()}
    tokens_of_latents = counts["latents"] * cfg.vae.patch_size
    denominators = {
        "reconstruction": counts["tokens"], "correct": counts["tokens"], "mask": counts.get("masked"),
        "kl": tokens_of_latents, "log_q": tokens_of_latents, "reference_kl": tokens_of_latents,
        "mean_square": counts["latents"] * cfg.vae.latent_dim, "variance": counts["latents"] * cfg.vae.latent_dim,
    }  # fmt: skip
    return {name: value / denominators[name] for name, value in sums.items() if name in denominators}


def summarize(means: dict[str, Any]) -> dict[str, Any]:
    """Names the VAE's metrics: accuracy, and logSNR = log(mean mu^2 / mean sigma^2)."""
    metrics = {name: means[name] for name in ("reconstruction", "mask", "kl", "log_q", "reference_kl") if name in means}
    metrics["reconstruction_accuracy"] = means["correct"]
    if "variance" in means:
        metrics["logsnr"] = jnp.log(means["mean_square"] / means["variance"])
    return metrics


def repeat(where: LatentPositions, copies: int) -> LatentPositions:
    """The layout of a batch whose rows stand `copies` times in its batch axis."""
    return jax.tree.map(lambda leaf: interleave(*[leaf] * copies), where)


def cost_parts(cfg: RunConfig, trained: bool) -> dict[str, CostPart]:
    """Returns what the VAE's terms cost a row; with the mask loss, every row goes through it twice."""
    tokens, compute = cfg.train.sequence_length, cfg.compute
    gradient, copies = TRAINED if trained else FORWARD, 2 if masks(cfg) else 1
    works = {
        "encoder": flops.encoder(cfg.vae, tokens, compute),
        "decoder": flops.decoder(cfg.vae, tokens, compute),
        "logits": flops.dense(tokens, cfg.vae.dim, cfg.vae.vocab_size),
    }
    return {name: CostPart(work.times(copies), gradient) for name, work in works.items()}
