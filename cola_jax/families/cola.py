"""Stage 2: the Text VAE and the block-causal DiT (SPEC 2).

L = lambda_VAE (-E log p(x | z0) + beta E log q(z0 | x) + lambda_mask L_mask) + lambda_fm L_FM + lambda_ref KL(q || q_ref)

Axes: B batch, L tokens, N = L / P latents, S latents per block, NB blocks, C latent channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ConfigError, RunConfig, without_kernels
from cola_jax.diffusion import known_prefix, path, timesteps
from cola_jax.families import cola_likelihood, vae_terms
from cola_jax.families.cost import FORWARD, TRAINED, Cost, CostPart, mean, of_parts
from cola_jax.families.family import (
    Family,
    Generator,
    LikelihoodEstimator,
    Objective,
    Training,
    text_batch,
)
from cola_jax.families.keys import key_of, row_keys
from cola_jax.families.rows import RowOptions
from cola_jax.generate import blocks as block_loop
from cola_jax.generate.blocks import Block
from cola_jax.generate.keys import fold_rows
from cola_jax.generate.prompts import pad_prompts
from cola_jax.models import build, flops
from cola_jax.models.cache import slots
from cola_jax.models.dit import BlockPositions
from cola_jax.models.text_vae import to_prior

GROUPS = ("encoder", "decoder", "dit")


def init(cfg: RunConfig, rng: jax.Array) -> dict[str, Any]:
    """Returns new parameters {"encoder", "decoder", "dit"}."""
    latent = jnp.zeros((1, 1, cfg.vae.latent_dim))
    example = (latent, jnp.zeros((1, 1)), jnp.zeros((1, 1), jnp.int32), None)
    return vae_terms.init(cfg, rng) | {
        "dit": build.dit(without_kernels(cfg)).init(key_of(rng, "dit"), *example)["params"]
    }


def draw(cfg: RunConfig, batch: dict[str, Any], rng: jax.Array, step: jax.Array) -> tuple[Any, Any]:
    """Adds to the VAE's draws z1 (B, N, C), t (B, 1) or (B, NB), and known latents (B, N) of every block."""
    noise = vae_terms.draw(cfg, batch, rng)
    rows, size = batch["rows"], cfg.dit.block_size
    latents = batch["tokens"].shape[1] // cfg.vae.patch_size
    blocks = latents // size
    noise["z1"] = vae_terms.normal(row_keys(rng, "z1", rows), (latents, cfg.vae.latent_dim))
    times = blocks if cfg.flow.time_per == "block" else 1
    keys = row_keys(rng, "t", rows)
    noise["t"] = jax.vmap(lambda key: timesteps.sample_times(cfg.flow, key, (times,)))(keys)
    if cfg.flow.known_prefix_probability > 0:
        keys = row_keys(rng, "known", rows)
        known = jax.vmap(lambda key: known_prefix.sample_known(cfg.flow, key, blocks, size))(keys)
        noise["known"] = known.reshape(rows.shape[0], latents)
    return noise, count(cfg, batch, noise)


def count(cfg: RunConfig, batch: Any, noise: Any) -> dict[str, jax.Array]:
    """Adds to the VAE's counts the latents that the flow matching loss is averaged over."""
    where = vae_terms.layout(cfg, batch)
    return vae_terms.count(cfg, batch, noise) | {"flow": jnp.sum(flow_weights(where.weights, noise.get("known")))}


def flow_weights(weights_BN: jax.Array, known_BN: jax.Array | None) -> jax.Array:
    """The loss mask: latents of a document that are not given."""
    return weights_BN if known_BN is None else weights_BN * (1.0 - known_BN)


def flow_matching(
    cfg: RunConfig,
    params: Any,
    z0_BNC: jax.Array,
    noise: dict[str, jax.Array],
    where: vae_terms.LatentPositions,
) -> tuple[jax.Array, jax.Array]:
    """The velocity of every block given the clean blocks before it, and the sum of L_FM's squared errors.

    Args:
      z0_BNC: latents as the DiT sees them. The blocks' history never passes gradient to them; flow.encoder_gradient says
        whether the block's own z_t (input) and its target do.
      noise: z1 (B, N, C), t (B, 1) or (B, NB) in [0, 1], and known (B, N) booleans or absent.

    Returns:
      v (B, N, C) fp32, and the sum over loss-masked latents of the mean over channels of |v - (z1 - z0)|^2.
    """
    fixed = jax.lax.stop_gradient(z0_BNC)
    gradient = "none" if vae_terms.is_fixed(cfg) else cfg.flow.encoder_gradient
    in_input = fixed if gradient == "none" else z0_BNC
    in_target = z0_BNC if gradient == "input_and_target" else fixed
    z1, t, known = noise["z1"], noise["t"], noise.get("known")
    chex.assert_equal_shape((z0_BNC, z1))
    chex.assert_shape(t, (z0_BNC.shape[0], None))
    t_BN = jnp.repeat(t, z0_BNC.shape[1] // t.shape[1], axis=1)
    z_t = path.interpolate(in_input, z1, t_BN[..., None])
    if known is not None:
        z_t = jnp.where(known[..., None], fixed, z_t)
    variables = {"params": params["dit"]}
    v = build.dit(cfg).apply(variables, fixed, z_t, t, known, where.positions, where.segments, method="denoise_all")
    error = jnp.mean(jnp.square(v - path.velocity_target(in_target, z1)), axis=-1)
    return v, jnp.sum(error * flow_weights(where.weights, known))


def loss(cfg: RunConfig, params: Any, frozen: Any, batch: Any, noise: Any, counts: Any, step: Any) -> tuple[Any, Any]:
    """Returns the microbatch's share of the stage 2 loss and its sums; of a fixed VAE, lambda_fm L_FM alone is the loss."""
    where = vae_terms.layout(cfg, batch)
    encoded = vae_terms.encode(cfg, params, batch, noise, where)
    sums = vae_terms.decode_sums(cfg, params, batch, noise, encoded, where)
    sums |= vae_terms.posterior_sums(encoded.posterior, where)
    objective, fixed = cfg.objective, vae_terms.is_fixed(cfg)
    if not fixed and objective.reference_weight > 0:
        reference = vae_terms.posterior_of(cfg, jax.lax.stop_gradient(frozen), batch["tokens"], where)
        sums["reference_kl"] = vae_terms.kl_between(encoded.posterior, reference, where)
    _, sums["flow_matching"] = flow_matching(cfg, params, to_prior(cfg.vae, encoded.z0), noise, where)
    flow = objective.flow_weight * sums["flow_matching"] / jnp.maximum(counts["flow"], 1.0)
    if fixed:
        return flow, sums | count(cfg, batch, noise)
    terms = vae_terms.per_token(cfg, sums, counts)
    vae = terms["reconstruction"] + objective.mask_weight * terms.get("mask", 0.0)
    vae = vae + objective.kl_weight * terms.get("log_q", 0.0)
    total = objective.vae_weight * vae + flow + objective.reference_weight * terms.get("reference_kl", 0.0)
    return total, sums | count(cfg, batch, noise)


class RopeTable(Protocol):
    """RoPE positions that depend on the length before a block."""

    def prefix(self, length_B: np.ndarray, width: int) -> np.ndarray:
        """Returns positions (B, width) of prefixes of the given lengths."""

    def block(self, length_B: np.ndarray, block_size: int, slots: int) -> BlockPositions:
        """Returns the positions of a block that follows the given lengths, the cache having `slots` slots."""


def generate(
    cfg: RunConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    rows: RowOptions,
    *,
    noise: jax.Array | None = None,
    blocks: int | None = None,
    rope: RopeTable | None = None,
) -> Iterator[tuple[list[list[int]], Block]]:
    """Continues prompts block by block, as cfg.sampling specifies (SPEC 3).

    Args:
      prompts: token ids of each row; an empty prompt generates unconditionally.
      rows: if `prompt_tokens` is given, as many blocks are generated as any prompt of that length can need.
      noise: (blocks, B, S, C), in place of the seed's.
      blocks: number of blocks; by default as many as max_new_tokens need.
      rope: RoPE positions in place of the natural ones; only to reproduce another program's.

    Yields:
      for each block, its new tokens by row (the prompt's own in the first block left out), and the block itself. They are
      read while the next block is computed, which is wasted if the caller stops.

    Raises:
      PromptError: see `pad_prompts`. ConfigError: if blocks of the decoder do not divide those of the DiT.
    """
    size, patch = cfg.dit.block_size, cfg.vae.patch_size
    if size % cfg.vae.block_size:
        raise ConfigError(f"generation needs vae.block_size={cfg.vae.block_size} to divide dit.block_size={size}")
    batch = pad_prompts(
        prompts, patch_size=patch, block_size=size, pad_id=rows.pad_id, vocab_size=cfg.vae.vocab_size,
        first_block=cfg.sampling.first_block, blocks=-(-rows.prompt_tokens // (size * patch)),
    )  # fmt: skip
    if blocks is None:
        most = 0 if cfg.sampling.first_block in ("left_pad", "right_pad") else size * patch - 1
        known = most if rows.prompt_tokens else int(batch.trim.max())
        blocks = -(-(cfg.sampling.max_new_tokens + known) // (size * patch))
    keys_B, place = rows.keys(len(prompts)), rows.place
    program = block_loop.program_of(cfg)
    values = jax.tree.map(lambda x: place(x) if x.ndim else x, block_loop.values_of(cfg.sampling, len(prompts)))
    prepared = block_loop.prepare(program, params)
    params = block_loop.cut_layers(program.networks, params)
    whole = batch.known // size * size
    prefix = None if rope is None else rope.prefix(whole, batch.tokens.shape[1] // patch)
    tokens, ends = place(batch.tokens), place(batch.known)
    progress, first = block_loop.read_prompt(program.networks, params, tokens, ends, blocks, prefix)
    new_tokens = lambda block, skip: [row[n:].tolist() for row, n in zip(jax.device_get(block.tokens), skip)]
    mixed, written = bool((batch.known % size).any()), None
    for index in range(blocks):
        keys = fold_rows(keys_B, index)
        z1 = vae_terms.normal(keys, (size, cfg.vae.latent_dim)) if noise is None else jnp.asarray(noise[index])
        opening = first if mixed and index == 0 else None
        positions = None if rope is None else rope.block(whole + index * size, size, slots(progress.dit_cache))
        block, entries = block_loop.write_block(
            program, params, prepared, values, progress, opening, z1, keys, positions
        )
        if index < blocks - 1:
            progress = block_loop.commit(progress, block, entries)
        if written is not None:  # read while the device is at the next one
            yield new_tokens(*written), written[0]
        written = block, batch.trim if index == 0 else batch.trim * 0
    if written is not None:
        yield new_tokens(*written), written[0]


def summarize(cfg: RunConfig, sums: dict[str, Any]) -> dict[str, Any]:
    metrics = vae_terms.summarize(vae_terms.per_token(cfg, sums, sums))
    return metrics | {"flow_matching": sums["flow_matching"] / jnp.maximum(sums["flow"], 1.0)}


def training(cfg: RunConfig, step: int) -> Training:
    """All groups, or the DiT alone if the latent policy keeps the VAE fixed; q_ref is frozen if its term is on."""
    objective, fixed = cfg.objective, vae_terms.is_fixed(cfg)
    apart = objective.latent_policy == "interval" and step % objective.interval_period >= objective.interval_joint
    ratio = 1.0 if fixed else objective.vae_lr_ratio
    frozen = () if fixed or objective.reference_weight == 0 else ("encoder",)
    return Training(("dit",) if fixed or apart else GROUPS, {"encoder": ratio, "decoder": ratio, "dit": 1.0}, frozen)


def cost(cfg: RunConfig) -> Cost:
    """The cost of a step; under latent_policy=interval, the mean over a period."""
    policy = cfg.objective.latent_policy
    if policy != "interval":
        return _step_cost(cfg, policy != "fixed", policy != "fixed")
    share = cfg.objective.interval_joint / cfg.objective.interval_period
    return mean([(share, _step_cost(cfg, True, True)), (1.0 - share, _step_cost(cfg, False, True))])


def _step_cost(cfg: RunConfig, vae_trained: bool, vae_moments: bool) -> Cost:
    """The cost of a step that trains the VAE or not, in a run that keeps moments of the VAE or not."""
    length, latents = cfg.train.sequence_length, cfg.train.sequence_length // cfg.vae.patch_size
    parts = vae_terms.cost_parts(cfg, vae_trained)
    frozen = training(cfg, 0).frozen
    if frozen:
        parts["reference"] = CostPart(flops.encoder(cfg.vae, length, cfg.compute), FORWARD)
    times = latents // cfg.dit.block_size if cfg.flow.time_per == "block" else 1
    shared = cfg.train.accumulate / cfg.train.batch_size  # the clean stream's t = 0 is embedded once a microbatch
    parts["dit"] = CostPart(
        flops.dit_training(cfg.dit, cfg.vae.latent_dim, latents, times + shared, cfg.compute), TRAINED
    )
    return of_parts(cfg, init, parts, GROUPS if vae_moments else ("dit",), frozen)


FAMILY = Family(
    name="cola",
    groups=GROUPS,
    objective=Objective(init, text_batch, draw, loss, summarize, cost),
    training=training,
    generator=Generator(generate, block_loop.abstract_step),
    likelihood=LikelihoodEstimator(
        cola_likelihood.log_likelihood, options=("draws", "steps", "solver", "divergence", "estimator")
    ),
    forms=("cola",),
)
