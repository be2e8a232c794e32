"""One layer of the block-causal DiT (SPEC 1.2), in the pieces that the training pass, the cache and the sampler put
together.

Axes: B batch, N latents, D width, H heads, K head channels, T distinct times.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cola_jax.config import DiTConfig
from cola_jax.models import attention, layers
from cola_jax.models.axes import shard_activations


class Modulation(NamedTuple):
    """AdaLN of one layer, fp32: shift, scale and gate of attention and MLP, each (..., D)."""

    attn_shift: jax.Array
    attn_scale: jax.Array
    attn_gate: jax.Array
    mlp_shift: jax.Array
    mlp_scale: jax.Array
    mlp_gate: jax.Array


class DiTBlock(nn.Module):
    """Attention and MLP, each modulated, and their AdaLN."""

    config: DiTConfig
    dtype: jnp.dtype

    def setup(self):
        dit = self.config
        heads_width = dit.num_heads * dit.head_dim
        self.qkv = self._dense(3 * heads_width, bias=dit.qk_bias)
        self.attn_out = self._dense(dit.dim, bias=dit.qk_bias)
        self.q_norm = layers.LayerNorm(dit.norm_eps)
        self.k_norm = layers.LayerNorm(dit.norm_eps)
        self.mlp_in = self._dense(dit.expand_ratio * dit.dim)
        self.mlp_out = self._dense(dit.dim)
        self.ada_attn_in = self._ada(2 * dit.dim)
        self.ada_attn_out = self._ada(dit.dim)
        self.ada_mlp_in = self._ada(2 * dit.dim)
        self.ada_mlp_out = self._ada(dit.dim)

    def _dense(self, features: int, bias: bool = True) -> nn.Dense:
        return nn.Dense(features, use_bias=bias, dtype=self.dtype)

    def _ada(self, features: int) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=ada_init(self.config))

    def __call__(self, x_BND: jax.Array, emb_TD: jax.Array) -> jax.Array:
        """Attention of every position to itself only: uses each parameter, for initialisation."""
        mod = self.modulation(emb_TD)
        _, _, v = self.project(x_BND, mod)
        return self.finish(x_BND, v, mod)

    def modulation(self, emb_TD: jax.Array) -> Modulation:
        """AdaLN parameters of T distinct times, computed once for each."""
        h = nn.silu(emb_TD)
        attn_shift, attn_scale = jnp.split(self.ada_attn_in(h).astype(jnp.float32), 2, axis=-1)
        mlp_shift, mlp_scale = jnp.split(self.ada_mlp_in(h).astype(jnp.float32), 2, axis=-1)
        attn_gate, mlp_gate = (ada(h).astype(jnp.float32) for ada in (self.ada_attn_out, self.ada_mlp_out))
        return Modulation(attn_shift, attn_scale, attn_gate, mlp_shift, mlp_scale, mlp_gate)

    def project(self, x_BND: jax.Array, mod: Modulation) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns q, k, v (B, N, H, K), q and k normed per head and not yet rotated."""
        q, k, v = self._qkv(x_BND, mod)
        return self.q_norm(q), self.k_norm(k), v

    def project_by_head(self, x_BND: jax.Array, mod: Modulation) -> tuple[jax.Array, jax.Array]:
        """Returns what `project` does, q and k as one array (2, B, H, N, K), v (B, H, N, K): faster if rows are short."""
        q, k, v = map(attention.by_head, self._qkv(x_BND, mod))
        qk = jnp.stack([q, k])
        gains = [norm.variables["params"] for norm in (self.q_norm, self.k_norm)]
        scale, bias = (jnp.stack([gain[name] for gain in gains])[:, None, None, None] for name in ("scale", "bias"))
        return (layers.normalize(qk, self.config.norm_eps) * scale + bias).astype(qk.dtype), v

    def _qkv(self, x_BND, mod):
        dit = self.config
        h = layers.modulate(x_BND, mod.attn_shift, mod.attn_scale, dit.norm_eps)
        parts = (layers.split_heads(part, dit.num_heads) for part in jnp.split(self.qkv(h), 3, axis=-1))
        return (shard_activations(part, "batch", "length", "heads", None) for part in parts)

    def finish(self, x_BND: jax.Array, heads_BNHK: jax.Array, mod: Modulation) -> jax.Array:
        """Adds the gated attention output and the gated MLP."""
        a = shard_activations(self.attn_out(layers.merge_heads(heads_BNHK)), "batch", "length", None)
        x = x_BND + (mod.attn_gate * a).astype(x_BND.dtype)
        h = layers.modulate(x, mod.mlp_shift, mod.mlp_scale, self.config.norm_eps)
        f = self.mlp_out(layers.gelu_tanh(shard_activations(self.mlp_in(h), "batch", "length", "hidden")))
        f = shard_activations(f, "batch", "length", None)
        return x + (mod.mlp_gate * f).astype(x.dtype)


def ada_init(config: DiTConfig) -> nn.initializers.Initializer:
    """Zero, so that a new model's layers are the identity and its velocity is 0; else as in every dense layer."""
    return nn.initializers.zeros if config.zero_init else nn.initializers.lecun_normal()
