"""The training pass of the DiT written out plainly: one [clean | noisy] row of 2N positions and a 2N x 2N mask (SPEC 1.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def mask_of(latents: int, block_size: int, segments_BN=None):
    """Who sees whom over [clean | noisy], (B or 1, 2N, 2N): SPEC 1.3 word by word."""
    see = np.zeros((2 * latents, 2 * latents), bool)
    for q in range(2 * latents):
        for k in range(2 * latents):
            q_noisy, k_noisy = q >= latents, k >= latents
            q_block, k_block = q % latents // block_size, k % latents // block_size
            if not q_noisy and not k_noisy:
                see[q, k] = q_block >= k_block
            if q_noisy and not k_noisy:
                see[q, k] = q_block > k_block
            if q_noisy and k_noisy:
                see[q, k] = q_block == k_block
    if segments_BN is None:
        return see[None]
    both = np.concatenate([segments_BN, segments_BN], axis=1)
    return see[None] & (both[:, :, None] == both[:, None, :])


def denoise_all(cfg, params, z_clean, z_noisy, t_BN, positions_BN, mask):
    """v (B, N, C) of the noisy half. t_BN: the time of every noisy position; clean ones have 0. mask: see `mask_of`."""
    dit = cfg.dit
    length = z_noisy.shape[1]
    positions = jnp.concatenate([positions_BN, positions_BN], axis=1)
    t = jnp.concatenate([jnp.zeros_like(t_BN), t_BN], axis=1)
    x = dense(params["input"], jnp.concatenate([z_clean, z_noisy], axis=1))
    emb = embed(params["time"], t, dit.time_frequencies)
    for number in range(dit.num_layers):
        x = layer(dit, jax.tree.map(lambda leaf, i=number: leaf[i], params["blocks"]), x, emb, positions, mask)
    shift, scale = jnp.split(dense(params["output_ada"], jax.nn.silu(emb)), 2, axis=-1)
    x = gained(params["output_norm"], norm(x))
    return dense(params["output"], x * (1 + scale) + shift)[:, length:]


def layer(dit, p, x, emb, positions, mask):
    h = jax.nn.silu(emb)
    shift, scale = jnp.split(dense(p["ada_attn_in"], h), 2, axis=-1)
    qkv = dense(p["qkv"], norm(x) * (1 + scale) + shift)
    q, k, v = (part.reshape(*x.shape[:2], dit.num_heads, dit.head_dim) for part in jnp.split(qkv, 3, axis=-1))
    q, k = (rotate(gained(p[name], norm(y)), positions, dit) for name, y in (("q_norm", q), ("k_norm", k)))
    scores = jnp.einsum("bqhk,bmhk->bhqm", q, k) / np.sqrt(dit.head_dim)
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1)
    heads = jnp.einsum("bhqm,bmhk->bqhk", weights, v).reshape(*x.shape[:2], -1)
    x = x + dense(p["ada_attn_out"], h) * dense(p["attn_out"], heads)
    shift, scale = jnp.split(dense(p["ada_mlp_in"], h), 2, axis=-1)
    f = dense(p["mlp_in"], norm(x) * (1 + scale) + shift)
    return x + dense(p["ada_mlp_out"], h) * dense(p["mlp_out"], jax.nn.gelu(f, approximate=True))


def rotate(x, positions, dit):
    """Channels i and i + rope_dim / 2 as a complex number, turned by their position; the channels behind them pass."""
    half = dit.rope_dim // 2
    angles = (positions[..., None] * dit.rope_theta ** (-np.arange(half) / half))[:, :, None, :]
    real, imaginary = x[..., :half], x[..., half : dit.rope_dim]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = [real * cos - imaginary * sin, real * sin + imaginary * cos]
    return jnp.concatenate([*turned, x[..., dit.rope_dim :]], axis=-1)


def embed(p, t, frequencies):
    rates = np.exp(-np.log(10000.0) * np.arange(frequencies) / frequencies)
    angles = 1000.0 * t[..., None] * rates
    h = jax.nn.silu(dense(p["in"], jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)))
    return dense(p["out"], jax.nn.silu(dense(p["hidden"], h)))


def dense(p, x):
    y = x @ p["kernel"]
    return y + p["bias"] if "bias" in p else y


def norm(x, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


def gained(p, x):
    return x * p["scale"] + p["bias"]
