"""Block-causal diffusion transformer v_psi(z_t, t; z0^{<b}) (SPEC 1.2 and 1.3).

RoPE rotates pairs of channels; here the two of a pair are rope_dim / 2 apart, which accelerators and CPUs like
better than neighbours. In the released form they are adjacent: `interop.released` reorders q and k.

Axes: B batch, N latents, S latents per block, NB = N / S blocks, C latent channels, D width, H heads, K head channels,
T distinct times, M cached latents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cola_jax.config import ComputeConfig, DiTConfig
from cola_jax.models import attention, layers
from cola_jax.models.axes import shard_activations, shards
from cola_jax.models.cache import Caches, KVCache, slots, to_cache_layout
from cola_jax.models.dit_block import DiTBlock, Modulation, ada_init
from cola_jax.models.layers import rope_half as rotate
from cola_jax.models.layers import rotate_halves

TIME_FACTOR = 1000.0  # t in [0, 1] is embedded as T t, T = 1000


class TimeModulation(NamedTuple):
    """AdaLN at one time, of every layer (leaves (layers, D)) and of the output (shift, scale)."""

    layers: Modulation
    output: tuple[jax.Array, jax.Array]


class BlockPositions(NamedTuple):
    """RoPE positions of the cached keys, (B, M) or, if all rows have the same, (1, M), and of a new block's, (B, S)."""

    k_past: jax.Array
    k_new: jax.Array
    q_new: jax.Array


class Context(NamedTuple):
    """The earlier blocks that one block attends to, prepared once for all its solver steps by `DiT.context`.

    Attributes:
      layers: (parameters, cache) of every layer as `layers.zip_layers` has them, the cached keys rotated and, after
        `length`, in the form of `attention.attend_with_cache`.
      length: (B,) number of valid cached latents out of M. mask: (B, 1, 1, M), the same as booleans.
      rope: rotations of the block's own queries and keys, (2, B, S, 2, R / 2).
    """

    layers: Any
    length: jax.Array
    mask: jax.Array
    rope: jax.Array


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
    """The prior's velocity network, with three forward passes: whole rows, the training pass, and one block with a cache."""

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
        layers.declare_blocks(self, self.block, dit.num_layers, *example)
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
        x, _ = layers.over_layers(
            body, x, layers.blocks_of(self), scan=self.compute.scan_layers, remat=self.compute.remat
        )
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

        The last clean block and the clean output of the last layer are not computed, because they are not used.

        Args:
          z_clean_BNC: z0. z_noisy_BNC: z_t, with z0 where known.
          t_BT: times in [0, 1], one per row (B, 1) or one per block (B, NB).
          known_BN: latents of a block that are given, at t = 0; None if there are none.
          positions_BN: RoPE positions, from 0 in every document. segments_BN: documents, or None.

        Returns:
          v (B, N, C) fp32.
        """
        batch, length = z_noisy_BNC.shape[:2]
        past = (
            length if shards("length") > 1 else length - self.config.block_size
        )  # so that a sharded row stays divisible
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
        earlier = layers.layer_of(layers.blocks_of(self), slice(0, -1))
        if self.config.num_layers > 1:
            x, _ = layers.over_layers(body, x, earlier, scan=compute.scan_layers, remat=compute.remat)
        final = layers.rematerialized(lambda x, params: layer(x, params, last=True)[0], compute.remat, looped=False)
        _, noisy = final(x, layers.layer_of(layers.blocks_of(self), -1))
        return self._read_out(noisy, *(place(m) for m in self._output_modulation(emb)))

    def modulations(self, t_T: jax.Array) -> TimeModulation:
        """AdaLN of every layer and of the output at the T times of a sampler; leading axis T."""
        emb = self.time(t_T)
        per_layer = jax.lax.map(lambda params: self._apply(params, "modulation", emb), layers.blocks_of(self))
        return TimeModulation(
            jax.tree.map(lambda m_LTD: jnp.swapaxes(m_LTD, 0, 1), per_layer), self._output_modulation(emb)
        )

    def prefill(self, z_BNC: jax.Array, positions_BN: jax.Array) -> Caches:
        """Keys, not yet rotated, and values of clean latents at t = 0."""
        rope, emb = self._rope(positions_BN), self.time(jnp.zeros(1))

        def body(x, params):
            mod = self._apply(params, "modulation", emb)
            q, k, v = self._apply(params, "project", x, mod)
            heads = self._block_causal(rotate(q, rope), rotate(k, rope), v, None)
            return self._apply(params, "finish", x, heads, mod), to_cache_layout(k, v)

        x, scan = self._embed(z_BNC), self.compute.scan_layers
        return layers.over_layers(body, x, layers.blocks_of(self), scan=scan, remat="none")[1]

    def context(self, cache: Caches, length_B: jax.Array, positions: BlockPositions) -> Context:
        """Prepares the context of a block that follows the first `length_B` cached latents of each row."""
        scan = self.compute.scan_layers
        cos, sin = jnp.einsum("bmcr->cbrm", self._rope(positions.k_past))[:, :, None]
        mask = attention.past_mask(length_B, slots(cache))

        def ready(layer):
            k = rotate_halves(layer.k, cos, sin, axis=2)
            return KVCache(jnp.where(mask, k, k[..., :1]), layer.v)

        past = jax.vmap(ready)(cache) if scan else [ready(layer) for layer in cache]
        per_layer = layers.zip_layers(layers.blocks_of(self), past, scan=scan)
        rope = jnp.stack([self._rope(positions.q_new), self._rope(positions.k_new)])
        return Context(per_layer, length_B, mask, rope)

    def denoise_block(
        self,
        z_BSC: jax.Array,
        at_t: TimeModulation,
        at_0: TimeModulation,
        known_BS: jax.Array | None,
        context: Context,
        guided: bool,
    ) -> tuple[jax.Array, jax.Array | None, Caches]:
        """The velocity of one block in its context and, if guided, without it too.

        Args:
          z_BSC: the block. known_BS: latents of it that are given and take `at_0`; None if there are none.
          guided: also run the block without context, at positions 0 to S - 1 (SPEC 3.2).

        Returns:
          v_c (B, S, C) fp32, v_u (B, S, C) or None, and the block's own keys (not rotated) and values in its context.
        """
        batch, size = z_BSC.shape[:2]
        copies, scan, rope = 2 if guided else 1, self.compute.scan_layers, context.rope
        if guided:
            alone = jnp.broadcast_to(self._rope(jnp.arange(size)), rope.shape)
            rope = jnp.concatenate([rope, alone], axis=1)
        cos, sin = jnp.moveaxis(rope, 3, 0)[:, :, :, None]
        all_copies = lambda x, axis=0: x if x.shape[axis] == batch * copies else _tile(x, copies, axis)

        def place(rows, mod_t, mod_0):
            if known_BS is None:
                return mod_t
            known = jnp.tile(known_BS, (rows // batch, 1))[..., None]
            return jax.tree.map(lambda m_t, m_0: jnp.where(known, m_0, m_t), mod_t, mod_0)

        def body(x, layer):
            (params, past), mod_t, mod_0 = layer
            qk, v = self._apply(params, "project_by_head", x, place(x.shape[0], mod_t, mod_0))
            x, qk, v = all_copies(x), all_copies(qk, 1), all_copies(v)
            q, k = rotate_halves(qk, cos, sin)
            heads = attention.attend_with_cache(q, k, v, past, context.mask, repeated=True)
            fresh = KVCache(jnp.swapaxes(qk[1, :batch], -1, -2), v[:batch])
            return self._apply(params, "finish", x, heads, place(x.shape[0], mod_t, mod_0)), fresh

        x = self._embed(z_BSC)
        if scan:  # unrolled, the first layer projects one copy: until its attention both are equal
            x = all_copies(x)
        per_layer = layers.zip_layers(context.layers, at_t.layers, at_0.layers, scan=scan)
        x, fresh = layers.over_layers(body, x, per_layer, scan=scan, remat="none")
        v = self._read_out(x, *place(x.shape[0], at_t.output, at_0.output))
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
        return shard_activations(self.input(z_BNC.astype(self.dtype)), "batch", "length", None)

    def _output_modulation(self, emb):
        return tuple(jnp.split(self.output_ada(nn.silu(emb)).astype(jnp.float32), 2, axis=-1))

    def _read_out(self, x_BND, shift, scale):
        x = self.output_norm(x_BND).astype(jnp.float32)
        return self.output(x * (1.0 + scale) + shift)


def _tile(x, copies, axis):
    return jnp.tile(x, [copies if index == axis else 1 for index in range(x.ndim)])


class _Placement(NamedTuple):
    """Broadcasts values of the distinct times [0, t_1, ..., t_T] to the positions of the noisy copy."""

    batch: int
    length: int
    times: int  # distinct times per row: 1 or NB
    known_BN: jax.Array | None

    def __call__(self, m_TD: jax.Array) -> jax.Array:
        dim = m_TD.shape[-1]
        m = m_TD[1:].reshape(self.batch, self.times, 1, dim)
        if self.times > 1:
            m = jnp.broadcast_to(m, (self.batch, self.times, self.length // self.times, dim))
        m = m.reshape(self.batch, -1, dim)
        return m if self.known_BN is None else jnp.where(self.known_BN[..., None], m_TD[0], m)
