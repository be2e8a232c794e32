"""The LLaMA form written out plainly (BASELINES 1): one mask, one head after the other, no cache, no stacking."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def mask_of(segments_BL, causal: bool):
    """Who sees whom, (B, L, L): the own document, earlier positions alone where causal."""
    index = np.arange(segments_BL.shape[1])
    see = segments_BL[:, :, None] == segments_BL[:, None, :]
    return see & (index[:, None] >= index[None, :]) if causal else see


def logits(net, p, tokens_BL, positions_BL, mask):
    x = p["embedding"][tokens_BL]
    for number in range(net.num_layers):
        x = block(net, jax.tree.map(lambda leaf, i=number: leaf[i], p["blocks"]), x, positions_BL, mask)
    return rms(p["final_norm"], x, net.norm_eps) @ (p["embedding"].T if net.tie_embeddings else p["logits"]["kernel"])


def block(net, p, x, positions, mask):
    width, shared = net.dim // net.num_heads, net.num_heads // net.kv_heads
    y = rms(p["norm_attn"], x, net.norm_eps) @ p["qkv"]["kernel"]
    heads = []
    for head in range(net.num_heads):
        take = lambda start: y[..., start * width : (start + 1) * width]  # noqa: B023
        q = rotate(take(head), positions, net.rope_theta)
        k = rotate(take(net.num_heads + head // shared), positions, net.rope_theta)
        v = take(net.num_heads + net.kv_heads + head // shared)
        scores = jnp.where(mask, q @ k.swapaxes(1, 2) / np.sqrt(width), -jnp.inf)
        heads.append(jax.nn.softmax(scores, axis=-1) @ v)
    x = x + jnp.concatenate(heads, axis=-1) @ p["attn_out"]["kernel"]
    y = rms(p["norm_ffn"], x, net.norm_eps) @ p["ffn_in"]["kernel"]
    gate, up = y[..., : net.ffn_dim], y[..., net.ffn_dim :]
    return x + (jax.nn.silu(gate) * up) @ p["ffn_out"]["kernel"]


def rotate(x, positions, theta):
    half = x.shape[-1] // 2
    angles = positions[..., None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * jnp.cos(angles) - b * jnp.sin(angles), b * jnp.cos(angles) + a * jnp.sin(angles)], -1)


def rms(p, x, eps):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps) * p["scale"]
