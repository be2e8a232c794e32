"""The floating-point operations of the networks' matmuls, forward, for one row (SPEC 6).

A matmul of m x k with k x n counts 2 m k n. Norms, activations, softmax and embedding look-ups are not counted: at the
published sizes they are under 1 %. `Work` separates terms whose gradients have different costs.
Axes: L tokens, N latents, S latents per block, D width, H heads, K head channels.
"""

from __future__ import annotations

from typing import NamedTuple

from cola_jax.config import BackboneConfig, ComputeConfig, DiTConfig, TextVAEConfig
from cola_jax.models import pairs
from cola_jax.models.pairs import Pairs


class Work(NamedTuple):
    """Forward FLOPs of one row.

    Attributes:
      weights: of matmuls with a parameter; the gradients of input and parameter cost as much each.
      attention: of matmuls of queries, keys, values, as the kernel computes them; the gradient costs twice as much.
      masked: the part of `attention` spent on masked pairs.
    """

    weights: float
    attention: float = 0.0
    masked: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self, other)))

    def times(self, count: float) -> Work:
        return Work(*(count * part for part in self))


def dense(positions: float, inputs: int, outputs: int) -> Work:
    """A dense layer at `positions` positions."""
    return Work(2.0 * positions * inputs * outputs)


def attention(found: Pairs, heads: int, head_dim: int) -> Work:
    """Scores and their products with the values."""
    a_pair = 4.0 * heads * head_dim
    return Work(0.0, a_pair * found.computed, a_pair * (found.computed - found.live))


def vae_blocks(vae: TextVAEConfig, latents: int, layers: int, compute: ComputeConfig) -> Work:
    """`layers` blocks of the encoder or decoder."""
    width = vae.ffn_dim // 2 if vae.block.activation == "swiglu" else vae.ffn_dim
    block = dense(latents, vae.dim, vae.dim + 2 * vae.dim // vae.block.shared_heads_kv)  # qkv
    block += dense(latents, vae.dim, vae.dim)
    block += dense(latents, vae.dim, vae.ffn_dim) + dense(latents, width, vae.dim)
    seen = pairs.block_causal(latents, vae.block_size, compute)
    return (block + attention(seen, vae.num_heads, vae.dim // vae.num_heads)).times(layers)


def encoder(vae: TextVAEConfig, tokens: int, compute: ComputeConfig) -> Work:
    """Tokens to posterior parameters."""
    latents = tokens // vae.patch_size
    ends = dense(latents, vae.patch_size * vae.dim, vae.dim)
    ends += dense(latents, vae.dim, vae.latent_dim * (2 if vae.use_variation else 1))
    return ends + vae_blocks(vae, latents, vae.encoder_blocks, compute)


def decoder(vae: TextVAEConfig, tokens: int, compute: ComputeConfig) -> Work:
    """Latents to the input of the read-out."""
    latents = tokens // vae.patch_size
    ends = dense(latents, vae.latent_dim, vae.dim) + dense(latents, vae.dim, vae.patch_size * vae.dim)
    return ends + vae_blocks(vae, latents, vae.decoder_blocks, compute)


def dit_training(dit: DiTConfig, latent_dim: int, latents: int, times: float, compute: ComputeConfig) -> Work:
    """`DiT.denoise_all`: both streams, without the last clean block and the clean output of the last layer.

    times: distinct times whose modulation is computed, per row: 1 or NB, and the row's share of the clean stream's t = 0.
    """
    inner, past = dit.num_heads * dit.head_dim, latents - dit.block_size
    each = dense(1, inner, dit.dim) + dense(1, dit.dim, dit.expand_ratio * dit.dim).times(2)  # attn_out and the MLP
    qkv, keys = dense(1, dit.dim, 3 * inner), dense(1, dit.dim, 2 * inner)
    ada = dense(times, dit.dim, 6 * dit.dim)
    clean = (qkv + each).times(past) + attention(
        pairs.clean(latents, dit.block_size, compute), dit.num_heads, dit.head_dim
    )
    noisy = (qkv + each).times(latents)
    noisy += attention(pairs.noisy(latents, dit.block_size, compute), dit.num_heads, dit.head_dim)
    layers = (noisy + ada).times(dit.num_layers) + clean.times(dit.num_layers - 1) + keys.times(past)
    time = dense(times, 2 * dit.time_frequencies, dit.dim) + dense(times, dit.dim, dit.dim).times(2)
    ends = dense(latents + past, latent_dim, dit.dim) + dense(latents, dit.dim, latent_dim)
    return layers + time + dense(times, dit.dim, 2 * dit.dim) + ends


def backbone(net: BackboneConfig, tokens: int, seen: Pairs) -> Work:
    """Tokens to the input of the read-out; `seen`: the pairs of its attention pattern."""
    head_dim = net.dim // net.num_heads
    layer = dense(tokens, net.dim, net.dim + 2 * net.kv_heads * head_dim) + dense(tokens, net.dim, net.dim)
    layer += dense(tokens, net.dim, net.ffn_dim).times(3)
    return (layer + attention(seen, net.num_heads, head_dim)).times(net.num_layers)
