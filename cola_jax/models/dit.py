"""Block-causal diffusion transformer v_psi(z_t, t; z0^{<b}) (SPEC 1.2 and 1.3).

RoPE turns pairs of channels; here the two of a pair stand half of rope_dim apart, which accelerators and CPUs like better than
neighbours. The released form has them next to each other: `interop.released` reorders q and k.

Axes: B batch, N latents, S latents a block, NB = N / S blocks, C latent channels, D width, H heads, K head channels,
T distinct times, M cached latents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cola_jax.config import ComputeConfig, DiTConfig
from cola_jax.models import attention, layers
from cola_jax.models.axes import lay_out, shards
from cola_jax.models.cache import KVCache
from cola_jax.models.layers import rope_half as rotate

TIME_FACTOR = 1000.0  # t in [0, 1] is embedded as T t, T = 1000


class Modulation(NamedTuple):
    """AdaLN of one layer, fp32: shift, scale and gate of attention and MLP, each (..., D)."""

    attn_shift: jax.Array
    attn_scale: jax.Array
    attn_gate: jax.Array
    mlp_shift: jax.Array
    mlp_scale: jax.Array
    mlp_gate: jax.Array


class TimeModulation(NamedTuple):
    """AdaLN at one time, of every layer (leaves (layers, D)) and of the output (shift, scale)."""

    layers: Modulation
    output: tuple[jax.Array, jax.Array]


class BlockPositions(NamedTuple):
    """RoPE positions of the cached keys, (B, M), and of a new block's keys and queries, (B, S)."""

    k_past: jax.Array
    k_new: jax.Array
    q_new: jax.Array


class Context(NamedTuple):
    """What one block sees of earlier ones, prepared once for all its solver steps by `DiT.context`.

    Attributes:
      layers: (parameters, (keys, values)) of every layer as `layers.zip_layers` has them, laid out to be multiplied: keys
        rotated and as columns, (B, H, K, M), values as rows, (B, H, M, K).
      length: (B,) of the M cached latents, how many count. mask: (B, 1, 1, M), the same as booleans.
      q_rope, k_rope: rotations of the block's own queries and keys.
    """

    layers: Any
    length: jax.Array
    mask: jax.Array
    q_rope: jax.Array
    k_rope: jax.Array


class DiTBlock(nn.Module):
    """One layer, in the pieces that the training pass, the cache and the sampler put together."""

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
        """Attention of every position with itself alone: touches each parameter, for initialisation."""
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
        dit = self.config
        h = layers.modulate(x_BND, mod.attn_shift, mod.attn_scale, dit.norm_eps)
        q, k, v = (layers.split_heads(part, dit.num_heads) for part in jnp.split(self.qkv(h), 3, axis=-1))
        q, k, v = (lay_out(part, "batch", "length", "heads", None) for part in (q, k, v))
        return self.q_norm(q), self.k_norm(k), v

    def finish(self, x_BND: jax.Array, heads_BNHK: jax.Array, mod: Modulation) -> jax.Array:
        """Adds the gated attention output and the gated MLP."""
        a = lay_out(self.attn_out(layers.merge_heads(heads_BNHK)), "batch", "length", None)
        x = x_BND + (mod.attn_gate * a).astype(x_BND.dtype)
        h = layers.modulate(x, mod.mlp_shift, mod.mlp_scale, self.config.norm_eps)
        f = self.mlp_out(layers.gelu_tanh(lay_out(self.mlp_in(h), "batch", "length", "hidden")))
        f = lay_out(f, "batch", "length", None)
        return x + (mod.mlp_gate * f).astype(x.dtype)


class TimeEmbedding(nn.Module):
    """sin | cos features of T t, then three dense layers with silu between."""

    config: DiTConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, t_T: jax.Array) -> jax.Array:
        """Embeds times in [0, 1]: (...,) -> (..., D)."""
        dim = self.config.dim
        h = layers.time_features(t_T, self.config.time_frequencies, TIME_FACTOR).astype(self.dtype)
        h = nn.silu(nn.Dense(dim, dtype=self.dtype, name="in")(h))
        h = nn.silu(nn.Dense(dim, dtype=self.dtype, name="hidden")(h))
        return nn.Dense(dim, dtype=self.dtype, name="out")(h)


class DiT(nn.Module):
    """The prior's velocity network, with three ways through it: whole rows, the training pass, and one block on a cache."""

    config: DiTConfig
    latent_dim: int
    compute: ComputeConfig
    dtype: jnp.dtype

    def setup(self):
        dit = self.config
        self.input = nn.Dense(dit.dim, dtype=self.dtype)
        self.time = TimeEmbedding(dit, self.dtype)
        self.block = DiTBlock(dit, self.dtype, parent=None)
        example = (jnp.zeros((1, 1, dit.dim)), jnp.zeros((1, dit.dim)))
        self.blocks = self.param("blocks", layers.stacked_init(self.block, dit.num_layers, *example))
        self.output_norm = layers.LayerNorm(dit.norm_eps)
        self.output_ada = nn.Dense(2 * dit.dim, dtype=self.dtype, kernel_init=ada_init(dit))
        self.output = nn.Dense(self.latent_dim, dtype=jnp.float32, kernel_init=ada_init(dit))

    def __call__(
        self, z_BNC: jax.Array, t_BN: jax.Array, positions_BN: jax.Array, segments_BN: jax.Array | None
    ) -> jax.Array:
        """One block-causal pass over whole rows with a time for each position. Returns v (B, N, C) fp32."""
        rope, emb = self._rope(positions_BN), self.time(t_BN)

        def body(x, params):
            mod = self._apply(params, "modulation", emb)
            q, k, v = self._apply(params, "project", x, mod)
            heads = self._block_causal(rotate(q, rope), rotate(k, rope), v, segments_BN)
            return self._apply(params, "finish", x, heads, mod), None

        x = self._embed(z_BNC)
        x, _ = layers.over_layers(body, x, self.blocks, scan=self.compute.scan_layers, remat=self.compute.remat)
        return self._read_out(x, *self._output_modulation(emb))

    def denoise_all(
        self,
        z_clean_BNC: jax.Array,
        z_noisy_BNC: jax.Array,
        t_BT: jax.Array,
        known_BN: jax.Array | None,
        positions_BN: jax.Array,
        segments_BN: jax.Array | None,
    ) -> jax.Array:
        """The training pass over [clean | noisy]: the velocity of every block given the clean blocks before it.

        Neither the last clean block nor the clean output of the last layer is computed: nobody reads them.

        Args:
          z_clean_BNC: z0. z_noisy_BNC: z_t, with z0 where known.
          t_BT: times in [0, 1], one a row (B, 1) or one a block (B, NB).
          known_BN: latents of a block that are given, at t = 0; None where there are none.
          positions_BN: RoPE positions, from 0 in every document. segments_BN: documents, or None.

        Returns:
          v (B, N, C) fp32.
        """
        batch, length = z_noisy_BNC.shape[:2]
        past = length if shards("length") > 1 else length - self.config.block_size  # a split row stays divisible
        rope = self._rope(positions_BN)
        emb = self.time(jnp.concatenate([jnp.zeros(1), t_BT.reshape(-1)]))
        place = _Placement(batch, length, t_BT.shape[1], known_BN)
        x = (self._embed(z_clean_BNC[:, :past]), self._embed(z_noisy_BNC))

        def layer(x, params, last):
            clean, noisy = x
            mods = self._apply(params, "modulation", emb)
            mod_0, mod_t = jax.tree.map(lambda m: m[0], mods), jax.tree.map(place, mods)
            q, k, v = self._apply(params, "project", clean, mod_0)
            q_noisy, k_noisy, v_noisy = self._apply(params, "project", noisy, mod_t)
            heads = attention.clean_noisy_attention(
                (None if last else rotate(q, rope[:, :past]), rotate(k, rope[:, :past]), v),
                (rotate(q_noisy, rope), rotate(k_noisy, rope), v_noisy),
                block_size=self.config.block_size,
                segments_BN=segments_BN,
                compute=self.compute,
            )
            clean = clean if last else self._apply(params, "finish", clean, heads[0], mod_0)
            return (clean, self._apply(params, "finish", noisy, heads[1], mod_t)), None

        body, compute = (lambda x, params: layer(x, params, last=False)), self.compute
        earlier = layers.layer_of(self.blocks, slice(0, -1))
        if self.config.num_layers > 1:
            x, _ = layers.over_layers(body, x, earlier, scan=compute.scan_layers, remat=compute.remat)
        final = layers.rematerialized(lambda x, params: layer(x, params, last=True)[0], compute.remat, looped=False)
        _, noisy = final(x, layers.layer_of(self.blocks, -1))
        return self._read_out(noisy, *(place(m) for m in self._output_modulation(emb)))

    def modulations(self, t_T: jax.Array) -> TimeModulation:
        """AdaLN of every layer and of the output at T times that a sampler will visit; leaves lead with T."""
        emb = self.time(t_T)
        per_layer = jax.lax.map(lambda params: self._apply(params, "modulation", emb), self.blocks)
        return TimeModulation(
            jax.tree.map(lambda m_LTD: jnp.swapaxes(m_LTD, 0, 1), per_layer), self._output_modulation(emb)
        )

    def prefill(self, z_BNC: jax.Array, positions_BN: jax.Array) -> KVCache:
        """Keys, not yet rotated, and values (layers, B, N, H, K) of clean latents at t = 0."""
        rope, emb = self._rope(positions_BN), self.time(jnp.zeros(1))

        def body(x, params):
            mod = self._apply(params, "modulation", emb)
            q, k, v = self._apply(params, "project", x, mod)
            heads = self._block_causal(rotate(q, rope), rotate(k, rope), v, None)
            return self._apply(params, "finish", x, heads, mod), KVCache(k, v)

        return layers.over_layers(body, self._embed(z_BNC), self.blocks, scan=self.compute.scan_layers, remat="none")[1]

    def context(
        self, cache: KVCache, length_B: jax.Array, positions: BlockPositions, per_layer: list[Any] | None = None
    ) -> Context:
        """Prepares what a block that follows the first `length_B` cached latents of each row sees of them.

        per_layer: parameters of each layer, where the caller has cut them already.
        """
        rope, scan = self._rope(positions.k_past), self.compute.scan_layers
        ready = lambda layer: (jnp.einsum("bmhk->bhkm", rotate(layer.k, rope)), jnp.einsum("bmhk->bhmk", layer.v))
        past = jax.vmap(ready)(cache) if scan else [ready(layer) for layer in layers.split_layers(cache)]
        per_layer = layers.zip_layers(per_layer or self.blocks, past, scan=scan)
        mask = attention.past_mask(length_B, cache.k.shape[2])
        return Context(per_layer, length_B, mask, self._rope(positions.q_new), self._rope(positions.k_new))

    def denoise_block(
        self,
        z_BSC: jax.Array,
        at_t: TimeModulation,
        at_0: TimeModulation,
        known_BS: jax.Array | None,
        context: Context,
        guided: bool,
    ) -> tuple[jax.Array, jax.Array | None, KVCache]:
        """The velocity of one block in its context and, if guided, on its own as well.

        Args:
          z_BSC: the block. known_BS: latents of it that are given and take `at_0`; None where there are none.
          guided: also run the block alone, at positions 0 to S - 1 (SPEC 3.2).

        Returns:
          v_c (B, S, C) fp32, v_u (B, S, C) or None, and the block's own keys (not rotated) and values in its context.
        """
        batch, size = z_BSC.shape[:2]
        copies = 2 if guided else 1
        alone = jnp.broadcast_to(self._rope(jnp.arange(size)), (batch, *context.q_rope.shape[1:]))
        q_rope, k_rope = (jnp.concatenate([r, alone]) if guided else r for r in (context.q_rope, context.k_rope))
        known = None if known_BS is None else jnp.tile(known_BS, (copies, 1))[..., None]
        place = lambda m_t, m_0: m_t if known is None else jnp.where(known, m_0, m_t)

        def body(x, layer):
            (params, past), mod_t, mod_0 = layer
            mod = jax.tree.map(place, mod_t, mod_0)
            q, k, v = self._apply(params, "project", x, mod)
            heads = attention.attend_behind(rotate(q, q_rope), past, (rotate(k, k_rope), v), context.mask)
            return self._apply(params, "finish", x, heads, mod), KVCache(k[:batch], v[:batch])

        x = self._embed(jnp.tile(z_BSC, (copies, 1, 1)))
        scan = self.compute.scan_layers
        per_layer = layers.zip_layers(context.layers, at_t.layers, at_0.layers, scan=scan)
        x, fresh = layers.over_layers(body, x, per_layer, scan=scan, remat="none")
        v = self._read_out(x, *jax.tree.map(place, at_t.output, at_0.output))
        return v[:batch], (v[batch:] if guided else None), fresh

    def _apply(self, params, method, *args):
        return self.block.apply({"params": params}, *args, method=method)

    def _block_causal(self, q, k, v, segments_BN):
        return attention.block_causal_attention(
            q, k, v, block_size=self.config.block_size, segments_BN=segments_BN, compute=self.compute
        )

    def _rope(self, positions_BN):
        return layers.rope_table(positions_BN, self.config.rope_dim, self.config.rope_theta)

    def _embed(self, z_BNC):
        return lay_out(self.input(z_BNC.astype(self.dtype)), "batch", "length", None)

    def _output_modulation(self, emb):
        return tuple(jnp.split(self.output_ada(nn.silu(emb)).astype(jnp.float32), 2, axis=-1))

    def _read_out(self, x_BND, shift, scale):
        x = self.output_norm(x_BND).astype(jnp.float32)
        return self.output(x * (1.0 + scale) + shift)


class _Placement(NamedTuple):
    """Spreads what was computed for the distinct times [0, t_1, ..., t_T] over the positions of the noisy copy."""

    batch: int
    length: int
    times: int  # distinct times a row: 1 or NB
    known_BN: jax.Array | None

    def __call__(self, m_TD: jax.Array) -> jax.Array:
        dim = m_TD.shape[-1]
        m = m_TD[1:].reshape(self.batch, self.times, 1, dim)
        if self.times > 1:
            m = jnp.broadcast_to(m, (self.batch, self.times, self.length // self.times, dim))
        m = m.reshape(self.batch, -1, dim)
        return m if self.known_BN is None else jnp.where(self.known_BN[..., None], m_TD[0], m)


def ada_init(config: DiTConfig) -> nn.initializers.Initializer:
    """Zero, so that a new model's layers start as the identity and its velocity at 0; else as every dense layer."""
    return nn.initializers.zeros if config.zero_init else nn.initializers.lecun_normal()
