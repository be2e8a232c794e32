"""Text VAE: encoder q_phi(z0 | x) and decoder p_theta(x | z0) (SPEC 1.1).

Axes: B batch, L tokens, N = L / P latents, C latent channels, D width, H heads, K head channels, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cola_jax.config import ComputeConfig, TextVAEConfig
from cola_jax.models import attention, layers, visibility
from cola_jax.models.axes import shard_activations
from cola_jax.models.cache import Caches, slots, to_cache_layout

LOGVAR_RANGE = (-30.0, 20.0)


class Posterior(NamedTuple):
    """Diagonal Gaussian q_phi(z0 | x): mean and logvar (B, N, C) fp32; logvar is None for a plain autoencoder."""

    mean: jax.Array
    logvar: jax.Array | None


class VAEBlock(nn.Module):
    """One transformer block: attention, then feed-forward, norms as in SPEC 1.1."""

    config: TextVAEConfig
    dtype: jnp.dtype

    def setup(self):
        vae, block = self.config, self.config.block
        kv_width = vae.dim // block.shared_heads_kv
        self.kv_heads = vae.num_heads // block.shared_heads_kv
        self.qkv = self._dense(vae.dim + 2 * kv_width, block.qk_bias)
        self.attn_out = self._dense(vae.dim, block.bias)
        self.ffn_in = self._dense(vae.ffn_dim, block.bias)
        self.ffn_out = self._dense(vae.dim, block.bias)
        self.norm_attn = layers.LayerNorm(block.norm_eps, block.norm_affine)
        self.norm_ffn = layers.LayerNorm(block.norm_eps)
        if block.qk_norm:
            self.q_norm = layers.LayerNorm(block.norm_eps, block.qk_norm_affine)
            self.k_norm = layers.LayerNorm(block.norm_eps, block.qk_norm_affine)

    def _dense(self, features: int, bias: bool) -> nn.Dense:
        return nn.Dense(features, use_bias=bias, dtype=self.dtype, kernel_init=dense_init(self.config))

    def __call__(self, x_BND: jax.Array, rope_BN2K: jax.Array) -> jax.Array:
        """Attention of every position to itself only: uses each parameter, for initialisation."""
        _, _, v_BNHK = self.project(x_BND, rope_BN2K)
        return self.finish(x_BND, jnp.repeat(v_BNHK, self.config.block.shared_heads_kv, axis=2))

    def project(self, x_BND: jax.Array, rope_BN2K: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns q (B, N, H, K) and k, v (B, N, H / shared_heads_kv, K), normed and rotated."""
        vae, block = self.config, self.config.block
        qkv = self.qkv(x_BND if block.post_norm else self.norm_attn(x_BND))
        if block.clip_qkv > 0:
            qkv = jnp.clip(qkv, -block.clip_qkv, block.clip_qkv)
        kv_width = vae.dim // block.shared_heads_kv
        q, k, v = jnp.split(qkv, [vae.dim, vae.dim + kv_width], axis=-1)
        if block.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = layers.split_heads(q, vae.num_heads), layers.split_heads(k, self.kv_heads)
        v = layers.split_heads(v, self.kv_heads)
        q, k, v = (shard_activations(x, "batch", "length", "heads", None) for x in (q, k, v))
        return layers.rope_half(q, rope_BN2K), layers.rope_half(k, rope_BN2K), v

    def finish(self, x_BND: jax.Array, heads_BNHK: jax.Array) -> jax.Array:
        """Adds the attention output and the feed-forward."""
        a = shard_activations(self.attn_out(layers.merge_heads(heads_BNHK)), "batch", "length", None)
        if self.config.block.post_norm:
            x = self.norm_attn(x_BND) + a
            return x + self.norm_ffn(self.feed_forward(x))
        x = x_BND + a
        return x + self.feed_forward(self.norm_ffn(x))

    def feed_forward(self, x_BND: jax.Array) -> jax.Array:
        h = shard_activations(self.ffn_in(x_BND), "batch", "length", "hidden")
        match self.config.block.activation:
            case "swiglu":
                value, gate = jnp.split(h, 2, axis=-1)
                h = nn.silu(gate) * value
            case "silu":
                h = nn.silu(h)
            case "gelu":
                h = nn.gelu(h, approximate=False)
        return shard_activations(self.ffn_out(h), "batch", "length", None)


class BlockStack(nn.Module):
    """`layers` VAE blocks with stacked parameters, with or without a cache of earlier positions."""

    config: TextVAEConfig
    compute: ComputeConfig
    layers: int
    dtype: jnp.dtype

    def setup(self):
        head_dim = self.config.dim // self.config.num_heads
        self.block = VAEBlock(self.config, self.dtype, parent=None)
        example = (jnp.zeros((1, 1, self.config.dim)), jnp.zeros((1, 1, 2, head_dim // 2)))
        layers.declare_blocks(self, self.block, self.layers, *example)

    def rope(self, positions_BN: jax.Array) -> jax.Array:
        head_dim = self.config.dim // self.config.num_heads
        return layers.rope_table(positions_BN, head_dim, self.config.block.rope_theta)

    def __call__(
        self, x_BND: jax.Array, positions_BN: jax.Array, segments_BN: jax.Array | None
    ) -> tuple[jax.Array, Caches]:
        """Block-causal pass over whole rows. Returns the output and the keys and values of every layer."""
        rope, compute = self.rope(positions_BN), self.compute

        def body(x, params):
            q, k, v = self.block.apply({"params": params}, x, rope, method="project")
            heads = attention.block_causal_attention(
                q,
                k,
                v,
                block_size=self.config.block_size,
                segments_BN=segments_BN,
                compute=compute,
            )
            return self.block.apply({"params": params}, x, heads, method="finish"), to_cache_layout(k, v)

        return layers.over_layers(body, x_BND, layers.blocks_of(self), scan=compute.scan_layers, remat=compute.remat)

    def extend(self, x_BSD: jax.Array, cache: Caches, length_B: jax.Array) -> tuple[jax.Array, Caches]:
        """Runs S new positions that follow `length_B` cached ones. Returns the output and their cache entries."""
        new = jnp.arange(x_BSD.shape[1])
        rope = self.rope(length_B[:, None] + new)
        block = new // self.config.block_size
        own = visibility.block_causal(block[:, None], block[None, :])
        past_mask = attention.past_mask(length_B, slots(cache))

        def body(x, layer):
            params, past = layer
            q, k, v = self.block.apply({"params": params}, x, rope, method="project")
            heads = attention.attend_with_cache(*map(attention.by_head, (q, k, v)), past, past_mask, own)
            return self.block.apply({"params": params}, x, heads, method="finish"), to_cache_layout(k, v)

        scan = self.compute.scan_layers
        every = layers.zip_layers(layers.blocks_of(self), cache, scan=scan)
        return layers.over_layers(body, x_BSD, every, scan=scan, remat="none")


class Encoder(nn.Module):
    """q_phi: tokens to the posterior of their latents."""

    config: TextVAEConfig
    compute: ComputeConfig
    dtype: jnp.dtype

    def setup(self):
        vae = self.config
        self.embedding = self.param(
            "embedding", dense_init(vae), (vae.vocab_size + 1, vae.dim)
        )  # row V: the mask token
        self.patch = nn.Dense(vae.dim, dtype=self.dtype, kernel_init=dense_init(vae))
        self.stack = BlockStack(vae, self.compute, vae.encoder_blocks, self.dtype)
        nn.share_scope(self, self.stack)
        width = vae.latent_dim * (2 if vae.use_variation else 1)
        self.head = nn.Dense(width, use_bias=vae.block.bias, dtype=jnp.float32, kernel_init=dense_init(vae))

    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BN: jax.Array,
        segments_BN: jax.Array | None,
    ) -> Posterior:
        """Encodes token ids (B, L) int32. positions: of latents, from 0 in every document; segments: see attention."""
        vae = self.config
        batch, length = tokens_BL.shape
        x = shard_activations(jnp.take(self.embedding.astype(self.dtype), tokens_BL, axis=0), "batch", "length", None)
        x = self.patch(x.reshape(batch, length // vae.patch_size, vae.patch_size * vae.dim))
        x = shard_activations(x, "batch", "length", None)
        x, _ = self.stack(x, positions_BN, segments_BN)
        h = self.head(x.astype(jnp.float32))
        mean, logvar = h[..., : vae.latent_dim], None
        if vae.encoder_last_ln or not vae.use_variation:
            mean = layers.normalize(mean, vae.block.norm_eps)
        if vae.use_variation:
            logvar = jnp.clip(h[..., vae.latent_dim :], *LOGVAR_RANGE)
        return Posterior(mean, logvar)


class Decoder(nn.Module):
    """p_theta: latents to token logits."""

    config: TextVAEConfig
    compute: ComputeConfig
    dtype: jnp.dtype

    def setup(self):
        vae = self.config
        self.input = nn.Dense(vae.dim, use_bias=vae.block.bias, dtype=self.dtype, kernel_init=dense_init(vae))
        self.stack = BlockStack(vae, self.compute, vae.decoder_blocks, self.dtype)
        nn.share_scope(self, self.stack)
        self.unpatch = nn.Dense(vae.patch_size * vae.dim, dtype=self.dtype, kernel_init=dense_init(vae))
        self.final_norm = layers.LayerNorm(vae.block.norm_eps)
        self.logits = layers.ToVocabulary(vae.vocab_size, self.dtype, dense_init(vae), vae.block.bias)

    def __call__(self, z_BNC: jax.Array, positions_BN: jax.Array, segments_BN: jax.Array | None) -> jax.Array:
        """Decodes latents to fp32 logits (B, L, V)."""
        return self.to_logits(self.hidden(z_BNC, positions_BN, segments_BN)[0])

    def hidden(
        self,
        z_BNC: jax.Array,
        positions_BN: jax.Array,
        segments_BN: jax.Array | None,
    ) -> tuple[jax.Array, Caches]:
        """Returns the input of the read-out, (B, L, D), and the cache of every layer."""
        x = shard_activations(self.input(z_BNC.astype(self.dtype)), "batch", "length", None)
        x, cache = self.stack(x, positions_BN, segments_BN)
        return self._unpatch(x), cache

    def extend(self, z_BSC: jax.Array, cache: Caches, length_B: jax.Array) -> tuple[jax.Array, Caches]:
        """Decodes S latents that follow `length_B` cached ones. Returns logits (B, S * P, V) fp32 and their own cache."""
        x, fresh = self.stack.extend(self.input(z_BSC.astype(self.dtype)), cache, length_B)
        return self.to_logits(self._unpatch(x)), fresh

    def to_logits(self, h_BLD: jax.Array, padded: bool = False) -> jax.Array:
        """Returns fp32 logits (B, L, V); padded: see `layers.ToVocabulary`."""
        return self.logits(h_BLD, padded)

    def _unpatch(self, x_BND: jax.Array) -> jax.Array:
        batch, length, dim = x_BND.shape
        x = shard_activations(self.unpatch(x_BND), "batch", "length", None).reshape(
            batch, length, dim, self.config.patch_size
        )
        return self.final_norm(jnp.einsum("bndp->bnpd", x).reshape(batch, -1, dim))


def dense_init(config: TextVAEConfig) -> nn.initializers.Initializer:
    """Normal with the config's standard deviation, truncated at three of them."""
    return nn.initializers.truncated_normal(config.block.init_std, lower=-3.0, upper=3.0)


def to_prior(config: TextVAEConfig, z: jax.Array) -> jax.Array:
    """Latents as the DiT's input: (z - shift) * scale."""
    return (z - config.latent_shift) * config.latent_scale


def from_prior(config: TextVAEConfig, z: jax.Array) -> jax.Array:
    """The inverse of `to_prior`."""
    return z / config.latent_scale + config.latent_shift
