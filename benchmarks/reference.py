"""Plain reference implementations of the DiT: one dense mask over [clean | noisy], AdaLN for every position,
everything computed, no caches. They share parameters with the real model, so that both compute the same function.

Axes: B batch, N latents, S block, C latent channels, D width, H heads, K head channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cola_jax.config import DiTConfig


def velocity(params, dit: DiTConfig, z_BNC, t_BN, positions_BN, mask_NN):
    """v of every position under an explicit mask, AdaLN computed for each position."""
    emb = time_embedding(params["time"], dit, t_BN)
    x = dense(params["input"], z_BNC)
    for layer in range(dit.num_layers):
        x = block(jax.tree.map(lambda leaf, i=layer: leaf[i], params["blocks"]), dit, x, emb, positions_BN, mask_NN)
    shift, scale = jnp.split(dense(params["output_ada"], jax.nn.silu(emb)), 2, axis=-1)
    x = norm(x, dit.norm_eps) * params["output_norm"]["scale"] + params["output_norm"]["bias"]
    return dense(params["output"], x * (1 + scale) + shift)


def block(p, dit, x, emb, positions_BN, mask_NN):
    h = jax.nn.silu(emb)
    shift, scale = jnp.split(dense(p["ada_attn_in"], h), 2, axis=-1)
    qkv = dense(p["qkv"], norm(x, dit.norm_eps) * (1 + scale) + shift)
    q, k, v = (part.reshape(*x.shape[:2], dit.num_heads, dit.head_dim) for part in jnp.split(qkv, 3, axis=-1))
    q = rope(norm(q, dit.norm_eps) * p["q_norm"]["scale"] + p["q_norm"]["bias"], positions_BN, dit)
    k = rope(norm(k, dit.norm_eps) * p["k_norm"]["scale"] + p["k_norm"]["bias"], positions_BN, dit)
    scores = jnp.einsum("bqhk,bmhk->bhqm", q, k) / jnp.sqrt(dit.head_dim)
    weights = jax.nn.softmax(jnp.where(mask_NN, scores, -1e30), axis=-1)
    heads = jnp.einsum("bhqm,bmhk->bqhk", weights, v).reshape(*x.shape[:2], -1)
    x = x + dense(p["ada_attn_out"], h) * dense(p["attn_out"], heads)
    shift, scale = jnp.split(dense(p["ada_mlp_in"], h), 2, axis=-1)
    m = jax.nn.gelu(dense(p["mlp_in"], norm(x, dit.norm_eps) * (1 + scale) + shift), approximate=True)
    return x + dense(p["ada_mlp_out"], h) * dense(p["mlp_out"], m)


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def norm(x, eps):
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps)


def rope(x, positions_BN, dit):
    half = dit.rope_dim // 2
    angles = positions_BN[..., None, None] * dit.rope_theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half], x[..., half : 2 * half]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], axis=-1)


def time_embedding(p, dit, t):
    rates = jnp.exp(-jnp.log(10_000.0) * jnp.arange(dit.time_frequencies) / dit.time_frequencies)
    angles = 1000.0 * t[..., None] * rates
    h = jax.nn.silu(dense(p["in"], jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)))
    return dense(p["out"], jax.nn.silu(dense(p["hidden"], h)))


def denoise_all(params, dit, z_clean_BNC, z_noisy_BNC, t_B, positions_BN):
    """The training pass: [clean | noisy] as one sequence of 2N under the mask of SPEC 1.3."""
    batch, length = z_clean_BNC.shape[:2]
    number = jnp.arange(length) // dit.block_size
    q, k = number[:, None], number[None, :]
    mask = jnp.block([[q >= k, jnp.zeros((length, length), bool)], [q > k, q == k]])
    t = jnp.concatenate([jnp.zeros((batch, length)), jnp.broadcast_to(t_B[:, None], (batch, length))], axis=1)
    both = jnp.concatenate([z_clean_BNC, z_noisy_BNC], axis=1)
    v = velocity(params, dit, both, t, jnp.concatenate([positions_BN, positions_BN], axis=1), mask)
    return v[:, length:]


def next_block(params, dit, past_BNC, z1_BSC, steps, guidance):
    """Denoises one block after `past`, recomputing all earlier positions at every step."""
    batch, past = past_BNC.shape[:2]
    size = z1_BSC.shape[1]
    number = jnp.arange(past + size) // size
    mask = number[:, None] >= number[None, :]
    positions = jnp.broadcast_to(jnp.arange(past + size), (batch, past + size))

    def body(z, t):
        times = jnp.concatenate([jnp.zeros((batch, past)), jnp.full((batch, size), t)], axis=1)
        v_c = velocity(params, dit, jnp.concatenate([past_BNC, z], axis=1), times, positions, mask)[:, past:]
        v_u = velocity(params, dit, z, times[:, past:], positions[:, :size], mask[:size, :size])
        return z - (v_u + guidance * (v_c - v_u)) / steps, None

    return jax.lax.scan(body, z1_BSC, 1.0 - jnp.arange(steps) / steps)[0]
