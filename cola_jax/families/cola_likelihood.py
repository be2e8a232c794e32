"""The likelihood of text under Cola DLM (SPEC 4): log w = log p(x | z0) + log p(z0) - log q(z0 | x), z0 ~ q.

Axes: B batch, L tokens, N = L / P latents, S latents per block, C latent channels, K draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ConfigError, RunConfig
from cola_jax.diffusion import change_of_variables
from cola_jax.families import vae_terms
from cola_jax.families.keys import key_of
from cola_jax.families.likelihood import Likelihood, MonteCarlo, PriorOde, elbo, iwae
from cola_jax.families.rows import RowOptions
from cola_jax.generate.keys import fold_rows
from cola_jax.generate.prompts import PromptError, pad_prompts
from cola_jax.models import build
from cola_jax.models.build import ColaNetworks
from cola_jax.models.cross_entropy import chunked_cross_entropy
from cola_jax.models.dit import BlockPositions
from cola_jax.models.text_vae import to_prior

DRAWS = 4


class Terms(NamedTuple):
    """log p(x | z0), log p(z0) and log q(z0 | x) of every draw, (K, B) fp32, in nats."""

    log_decoder: jax.Array
    log_prior: jax.Array
    log_posterior: jax.Array

    @property
    def log_w(self) -> jax.Array:
        return self.log_decoder + self.log_prior - self.log_posterior


def log_likelihood(
    cfg: RunConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    rows: RowOptions,
    settings: MonteCarlo,
) -> Likelihood:
    """Estimates log p(prompt, answer) - log p(prompt) from the same draws; of an empty prompt it is a lower bound.

    If a text ends inside a block, the tokens after it are not fixed: their latents are drawn from q of padding and count in
    prior and posterior, so the bound holds but is looser. Draws depend on (seed, sample) alone.

    Raises:
      PromptError: for an empty answer, and see `pad_prompts`. ConfigError: if the VAE has no posterior.
    """
    if not cfg.vae.use_variation:
        raise ConfigError("vae.use_variation=False: an autoencoder without a posterior has no likelihood")
    empty = [row for row, answer in enumerate(answers) if not len(answer)]
    if empty:
        raise PromptError(f"answer {empty[0]} is empty: it has no likelihood")
    whole = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    span = cfg.dit.block_size * cfg.vae.patch_size
    longest = max(rows.prompt_tokens, max(map(len, whole)))
    room = {"patch_size": cfg.vae.patch_size, "block_size": cfg.dit.block_size, "pad_id": rows.pad_id}
    padded = lambda texts: pad_prompts(texts, vocab_size=cfg.vae.vocab_size, blocks=-(-longest // span), **room).tokens
    networks, keys_B, draws, ode = build.of_cola(cfg), rows.keys(len(whole)), settings.draws or DRAWS, settings.ode
    lengths = lambda texts: np.array([len(text) for text in texts])
    of = lambda texts: log_weights(networks, params, padded(texts), lengths(texts), keys_B, draws, ode)
    terms = of(whole)
    estimate = {"elbo": elbo, "iwae": iwae}[settings.estimator]
    found, kind = estimate(terms.log_w), "bound"
    if any(len(prompt) for prompt in prompts):
        before = of(prompts)
        found, kind = found - estimate(before.log_w), "difference"
        terms = Terms(*(a - b for a, b in zip(terms, before)))
    means = {name: np.asarray(jnp.mean(value, axis=0)) for name, value in terms._asdict().items()}
    return Likelihood(np.asarray(found), kind, means)


@partial(jax.jit, static_argnums=(0, 5, 6))
def log_weights(
    cfg: ColaNetworks,
    params: Any,
    tokens_BL: jax.Array,
    length_B: jax.Array,
    keys_B: jax.Array,
    draws: int,
    ode: PriorOde,
) -> Terms:
    """Returns the terms of log w for texts of `length_B` tokens, one per row, L a multiple of the tokens of a block."""
    size, patch = cfg.dit.block_size, cfg.vae.patch_size
    batch, latents = tokens_BL.shape[0], tokens_BL.shape[1] // patch
    positions = jnp.broadcast_to(jnp.arange(latents), (batch, latents))
    real = jnp.arange(tokens_BL.shape[1]) < length_B[:, None]
    blocks_B = -(-length_B // (size * patch))
    counted = (jnp.arange(latents) // size < blocks_B[:, None]).astype(jnp.float32)
    where = vae_terms.LatentPositions(positions, None, counted)
    posterior = vae_terms.posterior_of(cfg, params, tokens_BL, where)

    def once(number):
        keys = fold_rows(keys_B, number)
        eps = vae_terms.normal(jax.vmap(lambda key: key_of(key, "posterior"))(keys), (latents, cfg.vae.latent_dim))
        z0 = posterior.mean + jnp.exp(0.5 * posterior.logvar) * eps
        log_q = -0.5 * jnp.sum(change_of_variables.LOG_2PI + posterior.logvar + jnp.square(eps), axis=-1)
        log_prior = prior_log_density(cfg, params, to_prior(cfg.vae, z0), keys, ode)
        log_prior = log_prior + cfg.vae.latent_dim * jnp.log(jnp.abs(cfg.vae.latent_scale))
        log_x = -_decoder_losses(cfg, params, z0, positions, tokens_BL)
        return Terms(
            jnp.sum(log_x * real, axis=-1), jnp.sum(log_prior * counted, axis=-1), jnp.sum(log_q * counted, axis=-1)
        )

    return jax.lax.map(once, jnp.arange(draws))


def prior_log_density(cfg: ColaNetworks, params: Any, z0_BNC: jax.Array, keys_B: jax.Array, ode: PriorOde) -> jax.Array:
    """log p(z0) latent by latent (B, N), z0 as the DiT sees it: all blocks at once, each given the clean ones before it.

    The sum over a block's latents is log p(z0^b | z0^{<b}); a single latent's share has no meaning of its own.
    """
    batch, latents, channels = z0_BNC.shape
    positions = jnp.broadcast_to(jnp.arange(latents), (batch, latents))
    net, variables = build.dit(cfg), {"params": params["dit"]}

    def velocity(z_BNC, t):
        times = jnp.broadcast_to(t, (batch, 1))
        return net.apply(variables, z0_BNC, z_BNC, times, None, positions, None, method="denoise_all")

    if ode.divergence == "exact":
        probes = change_of_variables.exact(latents, channels, cfg.dit.block_size)
    else:
        keys = jax.vmap(lambda key: key_of(key, "hutchinson"))(keys_B)
        probes = change_of_variables.hutchinson(keys, latents, channels)
    return change_of_variables.log_density(velocity, z0_BNC, probes, ode.steps, ode.solver)


@partial(jax.jit, static_argnums=(0, 5))
def block_log_density(
    cfg: ColaNetworks, params: Any, past_NC: jax.Array, z0_GSC: jax.Array, keys_G: jax.Array, ode: PriorOde
) -> jax.Array:
    """log p(z0^b | z0^{<b}) of G blocks after one and the same past, (G,) fp32 in nats; latents are as the DiT sees them.

    Args:
      past_NC: the clean latents before the block, a whole number of blocks, maybe none.
      keys_G: of the directions that divergence=hutchinson takes, a key per block; equal keys take equal directions.
    """
    grid, size, channels = z0_GSC.shape
    length = past_NC.shape[0]
    cached = jnp.pad(past_NC, ((0, 0 if length else size), (0, 0)))[None]  # an empty past is a block that nobody sees
    slots = jnp.arange(cached.shape[1])[None]
    net, variables = build.dit(cfg), {"params": params["dit"]}
    cache = net.apply(variables, cached, slots, method="prefill")
    cache = jax.tree.map(lambda x: jnp.repeat(x, grid, axis=x.ndim - 4), cache)  # axis of rows
    new = jnp.broadcast_to(length + jnp.arange(size), (grid, size))
    context = net.apply(variables, cache, jnp.full(grid, length), BlockPositions(slots, new, new), method="context")

    def velocity(z_GSC, t):
        at_t = jax.tree.map(lambda m_1D: m_1D[0], net.apply(variables, t[None], method="modulations"))
        return net.apply(variables, z_GSC, at_t, at_t, None, context, False, method="denoise_block")[0]

    if ode.divergence == "exact":
        probes = change_of_variables.exact(size, channels, size)
    else:
        probes = change_of_variables.hutchinson(keys_G, size, channels)
    found = change_of_variables.log_density(velocity, z0_GSC, probes, ode.steps, ode.solver)
    return jnp.sum(found, axis=-1)


def _decoder_losses(cfg, params, z0_BNC, positions_BN, tokens_BL):
    """-log p of every token, (B, L)."""
    net, variables = build.decoder(cfg), {"params": params["decoder"]}
    hidden, _ = net.apply(variables, z0_BNC, positions_BN, None, method="hidden")
    losses, _ = chunked_cross_entropy(
        lambda h: net.apply(variables, h, method="to_logits"), hidden, tokens_BL, cfg.compute.cross_entropy_chunk
    )
    return losses
