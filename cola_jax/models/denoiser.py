"""Plaid's network (BASELINES 3): the backbone's blocks over noised embeddings of tokens, to logits of the tokens.

Axes: B batch, L tokens, E embedding channels, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cola_jax.config import BackboneConfig, ComputeConfig, PlaidConfig
from cola_jax.models import layers
from cola_jax.models.axes import shard_activations
from cola_jax.models.backbone import BackboneBlock, bidirectional, dense_init
from cola_jax.models.cross_entropy import in_pieces

FREQUENCIES = 32  # frequencies of the noise level's features, exp(-5) .. exp(5)


class Denoiser(nn.Module):
    """Noised embeddings, an earlier estimate of the clean ones and the noise level, to the input of the read-out."""

    config: BackboneConfig
    plaid: PlaidConfig
    compute: ComputeConfig
    dtype: jnp.dtype

    def setup(self):
        net = self.config
        self.head_dim = net.dim // net.num_heads
        self.input = nn.Dense(net.dim, use_bias=False, dtype=self.dtype)
        late = {"use_bias": False, "dtype": self.dtype, "kernel_init": nn.initializers.zeros}
        self.self_condition = nn.Dense(net.dim, **late)
        self.noise_level = nn.Dense(net.dim, **late)
        self.block = BackboneBlock(net, self.dtype, net.num_layers**-0.5, parent=None)
        example = (jnp.zeros((1, 1, net.dim)), jnp.zeros((1, 1, 2, self.head_dim // 2)))
        layers.declare_blocks(self, self.block, net.num_layers, *example)
        self.final_norm = layers.RMSNorm(net.norm_eps)
        self.logits = layers.ToVocabulary(net.vocab_size, self.dtype, nn.initializers.zeros, use_bias=False)

    def __call__(self, z_BLE: jax.Array, gamma_B: jax.Array, positions_BL: jax.Array) -> jax.Array:
        """The logits (B, L, V) fp32 without an earlier estimate: uses each parameter, for initialisation."""
        return self.to_logits(self.hidden(z_BLE, jnp.zeros_like(z_BLE), gamma_B, positions_BL, None))

    def hidden(
        self,
        z_BLE: jax.Array,
        estimate_BLE: jax.Array,
        gamma_B: jax.Array,
        positions_BL: jax.Array,
        segments_BL: jax.Array | None,
    ) -> jax.Array:
        """Returns the input of the read-out, (B, L, D).

        Args:
          z_BLE: noised embeddings. estimate_BLE: of the clean ones; 0 if there is none.
          gamma_B: -log SNR of each row. segments_BL: see attention.
        """
        rope = layers.rope_table(positions_BL, self.head_dim, self.config.rope_theta)
        channels = self.plaid.embedding_dim
        variance = jax.nn.sigmoid(-gamma_B) / channels + jax.nn.sigmoid(gamma_B)  # of a channel of z
        rates = jnp.exp(jnp.linspace(-5.0, 5.0, FREQUENCIES))
        angles = gamma_B[:, None] * rates
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        x = self.input((z_BLE * jax.lax.rsqrt(variance)[:, None, None]).astype(self.dtype))
        x = x + self.self_condition((channels**0.5 * estimate_BLE).astype(self.dtype))
        x = shard_activations(x + self.noise_level(features.astype(self.dtype))[:, None], "batch", "length", None)

        def body(x, params):
            q, k, v = self.block.apply({"params": params}, x, rope, method="project")
            heads = bidirectional(q, k, v, segments_BL, self.compute)
            return self.block.apply({"params": params}, x, heads, method="finish"), None

        x, _ = layers.over_layers(
            body, x, layers.blocks_of(self), scan=self.compute.scan_layers, remat=self.compute.remat
        )
        return self.final_norm(x)

    def to_logits(self, h_BLD: jax.Array) -> jax.Array:
        return self.logits(h_BLD)


def new_table(config: BackboneConfig, plaid: PlaidConfig, rng: jax.Array) -> jax.Array:
    """Initial embeddings (V, E) fp32; only the direction of a row matters."""
    return dense_init(config)(rng, (config.vocab_size, plaid.embedding_dim), jnp.float32)


class Estimate(NamedTuple):
    """x_hat = softmax(logits) E, (B, L, E); -log p of the targets and whether each is the likeliest, (B, L); the likeliest."""

    embeddings: jax.Array
    losses: jax.Array
    correct: jax.Array
    tokens: jax.Array


def estimate(
    net: Denoiser,
    params: Any,
    table_VE: jax.Array,
    z_BLE: jax.Array,
    earlier_BLE: jax.Array,
    gamma_B: jax.Array,
    bias: jax.Array | float,
    place: tuple[jax.Array, jax.Array | None],
    targets_BL: jax.Array,
) -> Estimate:
    """Predicts tokens from noised embeddings: logits = read-out + bias (alpha / sigma^2) z E^T.

    Args:
      table_VE: rows of unit length. earlier_BLE: see Denoiser.hidden, as for gamma_B.
      bias: s, the weight of the noised embedding's own evidence.
      place: positions and segments, (B, L) each.
    """
    hidden = net.apply({"params": params}, z_BLE, earlier_BLE, gamma_B, *place, method="hidden")
    strength = bias * jnp.exp(0.5 * jax.nn.log_sigmoid(-gamma_B)) / jax.nn.sigmoid(gamma_B)  # s alpha / sigma^2

    def piece(h, z, targets):
        logits = net.apply({"params": params}, h, method="to_logits")
        logits = logits + strength[:, None, None] * jnp.einsum("ble,ve->blv", z, table_VE)
        losses = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        likeliest = jnp.argmax(jax.lax.stop_gradient(logits), axis=-1).astype(jnp.int32)
        embeddings = jnp.einsum("blv,ve->ble", jax.nn.softmax(logits, axis=-1), table_VE)
        return Estimate(embeddings, losses, (likeliest == targets).astype(jnp.float32), likeliest)

    return in_pieces(piece, net.compute.cross_entropy_chunk, hidden, z_BLE, targets_BL)
