"""The Text VAE in its released form written out plainly (SPEC 1.1): whole rows, one mask, no chunks, no stacking."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def mask_of(latents: int, block_size: int, segments_BN=None):
    """Who sees whom, (B or 1, N, N): own and earlier blocks of the own document."""
    block = np.arange(latents) // block_size
    see = (block[:, None] >= block[None, :])[None]
    return see if segments_BN is None else see & (segments_BN[:, :, None] == segments_BN[:, None, :])


def encode(vae, p, tokens_BL, positions_BN, mask):
    """The posterior's mean and logvar (B, N, C)."""
    x = p["embedding"][tokens_BL].reshape(*positions_BN.shape, -1)
    x = stack(vae, p["blocks"], dense(p["patch"], x), positions_BN, mask)
    mean, logvar = jnp.split(dense(p["head"], x), 2, axis=-1)
    return norm(mean, vae.block.norm_eps), jnp.clip(logvar, -30.0, 20.0)


def decode(vae, p, z_BNC, positions_BN, mask):
    """Logits (B, L, V)."""
    x = dense(p["unpatch"], stack(vae, p["blocks"], dense(p["input"], z_BNC), positions_BN, mask))
    batch, latents, _ = x.shape
    x = x.reshape(batch, latents, vae.dim, vae.patch_size).swapaxes(2, 3).reshape(batch, -1, vae.dim)
    return dense(p["logits"], gained(p["final_norm"], norm(x, vae.block.norm_eps)))


def stack(vae, blocks, x, positions, mask):
    for number in range(jax.tree.leaves(blocks)[0].shape[0]):
        x = block(vae, jax.tree.map(lambda leaf, i=number: leaf[i], blocks), x, positions, mask)
    return x


def block(vae, p, x, positions, mask):
    eps = vae.block.norm_eps
    q, k, v = jnp.split(dense(p["qkv"], x), 3, axis=-1)
    q, k = gained(p["q_norm"], norm(q, eps)), gained(p["k_norm"], norm(k, eps))
    q, k, v = (y.reshape(*y.shape[:2], vae.num_heads, -1) for y in (q, k, v))
    q, k = rotate(q, positions, vae.block.rope_theta), rotate(k, positions, vae.block.rope_theta)
    scores = jnp.einsum("bqhk,bmhk->bhqm", q, k) / np.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1)
    heads = jnp.einsum("bhqm,bmhk->bqhk", weights, v).reshape(x.shape)
    x = gained(p["norm_attn"], norm(x, eps)) + dense(p["attn_out"], heads)
    value, gate = jnp.split(dense(p["ffn_in"], x), 2, axis=-1)
    return x + gained(p["norm_ffn"], norm(dense(p["ffn_out"], jax.nn.silu(gate) * value), eps))


def rotate(x, positions, theta):
    half = x.shape[-1] // 2
    angles = (positions[..., None] * theta ** (-np.arange(half) / half))[:, :, None, :]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate(
        [first * jnp.cos(angles) - second * jnp.sin(angles), second * jnp.cos(angles) + first * jnp.sin(angles)], -1
    )


def dense(p, x):
    y = x @ p["kernel"]
    return y + p["bias"] if "bias" in p else y


def norm(x, eps):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


def gained(p, x):
    return x * p["scale"] + p["bias"]
