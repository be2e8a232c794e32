"""The LLaMA-form stack that the baselines share: RMSNorm, RoPE, SwiGLU, no biases (SPEC 5, BASELINES 1).

The baselines' networks differ in their attention pattern, a function that is passed in.
Axes: B batch, L tokens, S new tokens, D width, F feed-forward width, H heads, K head channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from cola_jax.config import BackboneConfig, ComputeConfig
from cola_jax.models import attention, layers, visibility
from cola_jax.models.axes import shard_activations
from cola_jax.models.cache import Caches, append_layer, slots, to_cache_layout

Pattern = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None, ComputeConfig], jax.Array]


def causal(
    q: jax.Array, k: jax.Array, v: jax.Array, segments_BL: jax.Array | None, compute: ComputeConfig
) -> jax.Array:
    """Every position attends to itself and earlier ones of its document."""
    return attention.block_causal_attention(q, k, v, block_size=1, segments_BN=segments_BL, compute=compute)


def bidirectional(
    q: jax.Array, k: jax.Array, v: jax.Array, segments_BL: jax.Array | None, compute: ComputeConfig
) -> jax.Array:
    """Every position attends to all of its document, so chunks of queries would skip nothing."""
    return attention.full_attention(q, k, v, segments_BN=segments_BL, compute=compute)


class BackboneBlock(nn.Module):
    """One pre-norm block: x + Attn(RMS(x)), then x + SwiGLU(RMS(x))."""

    config: BackboneConfig
    dtype: jnp.dtype
    branch_scale: float = 1.0  # of the outputs of attention and feed-forward

    def setup(self):
        net = self.config
        self.head_dim = net.dim // net.num_heads
        self.norm_attn = layers.RMSNorm(net.norm_eps)
        self.norm_ffn = layers.RMSNorm(net.norm_eps)
        self.qkv = self._dense(net.dim + 2 * net.kv_heads * self.head_dim)
        self.attn_out = self._dense(net.dim)
        self.ffn_in = self._dense(2 * net.ffn_dim)  # gate | up
        self.ffn_out = self._dense(net.dim)

    def _dense(self, features: int) -> nn.Dense:
        return nn.Dense(features, use_bias=False, dtype=self.dtype, kernel_init=dense_init(self.config))

    def __call__(self, x_BLD: jax.Array, rope_BL2K: jax.Array) -> jax.Array:
        """Attention of every position to itself only: uses each parameter, for initialisation."""
        _, _, v_BLHK = self.project(x_BLD, rope_BL2K)
        return self.finish(x_BLD, jnp.repeat(v_BLHK, self.config.num_heads // self.config.kv_heads, axis=2))

    def project(self, x_BLD: jax.Array, rope_BL2K: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns q (B, L, H, K) and k, v (B, L, kv_heads, K), rotated."""
        net = self.config
        kv_width = net.kv_heads * self.head_dim
        q, k, v = jnp.split(self.qkv(self.norm_attn(x_BLD)), [net.dim, net.dim + kv_width], axis=-1)
        q, k = layers.split_heads(q, net.num_heads), layers.split_heads(k, net.kv_heads)
        q, k, v = (
            shard_activations(x, "batch", "length", "heads", None) for x in (q, k, layers.split_heads(v, net.kv_heads))
        )
        return layers.rope_half(q, rope_BL2K), layers.rope_half(k, rope_BL2K), v

    def finish(self, x_BLD: jax.Array, heads_BLHK: jax.Array) -> jax.Array:
        """Adds the attention output and the feed-forward."""
        x = x_BLD + self._scaled(
            shard_activations(self.attn_out(layers.merge_heads(heads_BLHK)), "batch", "length", None)
        )
        gate, up = jnp.split(shard_activations(self.ffn_in(self.norm_ffn(x)), "batch", "length", "hidden"), 2, axis=-1)
        return x + self._scaled(shard_activations(self.ffn_out(nn.silu(gate) * up), "batch", "length", None))

    def _scaled(self, branch_BLD: jax.Array) -> jax.Array:
        return branch_BLD if self.branch_scale == 1.0 else branch_BLD * self.branch_scale


class Backbone(nn.Module):
    """Token ids to logits, with the attention pattern of the caller."""

    config: BackboneConfig
    compute: ComputeConfig
    dtype: jnp.dtype

    def setup(self):
        net = self.config
        self.head_dim = net.dim // net.num_heads
        self.embedding = self.param("embedding", dense_init(net), (net.vocab_size, net.dim))
        self.block = BackboneBlock(net, self.dtype, parent=None)
        example = (jnp.zeros((1, 1, net.dim)), jnp.zeros((1, 1, 2, self.head_dim // 2)))
        layers.declare_blocks(self, self.block, net.num_layers, *example)
        self.final_norm = layers.RMSNorm(net.norm_eps)
        if not net.tie_embeddings:
            self.logits = layers.ToVocabulary(net.vocab_size, self.dtype, dense_init(net), use_bias=False)

    def __call__(
        self, tokens_BL: jax.Array, positions_BL: jax.Array, segments_BL: jax.Array | None, pattern: Pattern
    ) -> jax.Array:
        """Returns fp32 logits (B, L, V). positions: from 0 in every document; segments: see attention."""
        return self.to_logits(self.hidden(tokens_BL, positions_BL, segments_BL, pattern)[0])

    def hidden(
        self, tokens_BL: jax.Array, positions_BL: jax.Array, segments_BL: jax.Array | None, pattern: Pattern
    ) -> tuple[jax.Array, Caches]:
        """Returns the input of the read-out, (B, L, D), and the keys and values of every layer."""
        rope = layers.rope_table(positions_BL, self.head_dim, self.config.rope_theta)

        def body(x, params):
            q, k, v = self.block.apply({"params": params}, x, rope, method="project")
            heads = pattern(q, k, v, segments_BL, self.compute)
            return self.block.apply({"params": params}, x, heads, method="finish"), to_cache_layout(k, v)

        x = self.embed(tokens_BL)
        x, cache = layers.over_layers(
            body, x, layers.blocks_of(self), scan=self.compute.scan_layers, remat=self.compute.remat
        )
        return self.final_norm(x), cache

    def extend(self, tokens_BS: jax.Array, caches: Caches, length_B: jax.Array) -> tuple[jax.Array, Caches]:
        """Runs S tokens, causally, after `length_B` cached ones. Returns logits (B, S, V) fp32 and the caches with theirs.

        A layer writes its cache before it reads it. In the reverse order a loop over tokens could not write in place: the
        compiler would copy every cache for every token, since the old one might still be read after the write.
        """
        new = jnp.arange(tokens_BS.shape[1])
        rope = layers.rope_table(length_B[:, None] + new, self.head_dim, self.config.rope_theta)
        own = visibility.block_causal(new[:, None], new[None, :])
        past_mask = attention.past_mask(length_B, slots(caches))  # the new tokens attend to themselves

        def body(carry, layer):
            (x, caches), (params, index) = carry, layer
            q, k, v = self.block.apply({"params": params}, x, rope, method="project")
            caches, cache = append_layer(caches, index, k, v, length_B)
            heads = attention.attend_with_cache(*map(attention.by_head, (q, k, v)), cache, past_mask, own)
            return (self.block.apply({"params": params}, x, heads, method="finish"), caches), None

        scan, count = self.compute.scan_layers, self.config.num_layers
        index = jnp.arange(count) if scan else list(range(count))
        per_layer = layers.zip_layers(layers.blocks_of(self), index, scan=scan)
        (x, caches), _ = layers.over_layers(body, (self.embed(tokens_BS), caches), per_layer, scan=scan, remat="none")
        return self.to_logits(self.final_norm(x)), caches

    def embed(self, tokens_BL: jax.Array) -> jax.Array:
        return shard_activations(
            jnp.take(self.embedding.astype(self.dtype), tokens_BL, axis=0), "batch", "length", None
        )

    def to_logits(self, h_BLD: jax.Array, padded: bool = False) -> jax.Array:
        """Returns fp32 logits (B, L, V); padded: see `layers.ToVocabulary`."""
        if not self.config.tie_embeddings:
            return self.logits(h_BLD, padded)
        size, kernel = self.config.vocab_size, self.embedding.astype(self.dtype).T
        return layers.finish_logits(layers.vocabulary_logits(h_BLD, kernel, size), size, padded)


def dense_init(config: BackboneConfig) -> nn.initializers.Initializer:
    """Normal with the config's standard deviation, truncated at three of them."""
    return nn.initializers.truncated_normal(config.init_std, lower=-3.0, upper=3.0)
