"""Plaid's ancestral sampler (BASELINES 3): denoises the embeddings of all new tokens of a row at once.

`denoise` is one compiled program per shape; without transfers to the host.
Axes: B batch, L tokens of a row, E embedding channels, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import RunConfig
from cola_jax.diffusion import noise_schedule
from cola_jax.generate.keys import fold_rows
from cola_jax.models import build
from cola_jax.models.build import PlaidNetworks
from cola_jax.models.denoiser import estimate


class EmbeddingCanvas(NamedTuple):
    """Rows of prompt, positions of new tokens, and padding: tokens (B, L) int32; start and end of the new ones, (B,)."""

    tokens: jax.Array
    start: jax.Array
    end: jax.Array


def canvas_of(cfg: RunConfig, prompts_BL: np.ndarray, length_B: np.ndarray) -> EmbeddingCanvas:
    """Adds cfg.sampling.max_new_tokens positions after prompts that end at `length_B`; nothing attends to later ones."""
    room = np.pad(prompts_BL, ((0, 0), (0, cfg.sampling.max_new_tokens)))
    return EmbeddingCanvas(room, length_B, length_B + np.int32(cfg.sampling.max_new_tokens))


def unit_rows(table_VE: jax.Array) -> jax.Array:
    """Normalised embeddings: rows of unit length."""
    return table_VE / jnp.sqrt(jnp.sum(jnp.square(table_VE), axis=-1, keepdims=True) + 1e-12)


def abstract_step(cfg: RunConfig, params: Any, rows: int, prompt: int) -> tuple[Any, tuple[Any, ...]]:
    """Returns `denoise` and its arguments as shapes, for `rows` prompts of `prompt` tokens."""
    of = jax.ShapeDtypeStruct
    canvas = EmbeddingCanvas(
        of((rows, prompt + cfg.sampling.max_new_tokens), "int32"), of((rows,), "int32"), of((rows,), "int32")
    )
    networks, sampling = build.of_plaid(cfg), cfg.sampling
    values = of((rows,), "float32"), of((rows, 2), "uint32")
    return denoise, (networks, sampling.plaid.steps, sampling.max_new_tokens, params, canvas, *values)


@partial(jax.jit, static_argnums=(0, 1, 2))
def denoise(
    networks: PlaidNetworks,
    steps: int,
    new_tokens: int,
    params: Any,
    canvas: EmbeddingCanvas,
    score_temperature_B: jax.Array,
    keys_B: jax.Array,
) -> jax.Array:
    """Returns the new tokens (B, new_tokens) int32 after `steps` steps.

    A prompt is conditioned on by replacement: its estimate is always its own embeddings, noised as in training.
    keys_B: one key per row; position p of step i draws from fold_in(fold_in(key, i), p).
    """
    net, table = build.denoiser(networks), unit_rows(params["embedding"]["table"])
    batch, length = canvas.tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    segments = (positions < canvas.end[:, None]).astype(jnp.int32)
    given = (positions < canvas.start[:, None])[..., None]
    known = jnp.take(table, canvas.tokens, axis=0)
    shapes = noise_schedule.shape_of(params["schedule"], 1.0 - jnp.arange(steps + 1) / steps)
    gammas, _ = noise_schedule.gamma_of(params["schedule"], shapes)

    def noise(step):
        of = lambda key, place: jax.random.normal(jax.random.fold_in(key, place), (table.shape[1],))
        keys = fold_rows(keys_B, step)
        return jax.vmap(jax.vmap(of, in_axes=(None, 0)), in_axes=(0, None))(keys, jnp.arange(length))

    def read(z, earlier, gamma):
        level = jnp.broadcast_to(gamma, (batch,))
        found = estimate(net, params["backbone"], table, z, earlier, level, 1.0, (positions, segments), canvas.tokens)
        return jnp.where(given, known, found.embeddings), found.tokens

    def body(carry, step):
        z, earlier = carry
        number, gamma_t, gamma_s = step
        clean, _ = read(z, earlier, gamma_t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = noise_schedule.scales(gamma_t), noise_schedule.scales(gamma_s)
        guess = (z - alpha_t * clean) / sigma_t / score_temperature_B[:, None, None]  # of the noise
        sharper = jnp.where(given, clean, (z - sigma_t * guess) / alpha_t)
        c = -jnp.expm1(gamma_s - gamma_t)
        z = z * (1.0 - c) * alpha_s / alpha_t + c * alpha_s * sharper + jnp.sqrt(c) * sigma_s * noise(number)
        return (z, clean), None

    start = noise(0)
    steps_of = (1 + jnp.arange(steps), gammas[:-1], gammas[1:])
    (z, earlier), _ = jax.lax.scan(body, (start, jnp.where(given, known, 0.0)), steps_of)
    _, tokens = read(z, earlier, gammas[-1])
    new = canvas.start[:, None] + jnp.arange(new_tokens)
    return jnp.take_along_axis(tokens, new, axis=1)
