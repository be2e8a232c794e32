"""Primitives that the models share: norms, rotary positions, modulation, stacked blocks.

Axes: B batch, N positions, H heads, K head channels, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cola_jax.models.axes import shard_activations, shards


class LayerNorm(nn.Module):
    """Layer norm over the last axis in fp32, returned in the dtype of the input."""

    eps: float
    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = normalize(x, self.eps)
        if self.affine:
            width = (x.shape[-1],)
            y = y * self.param("scale", nn.initializers.ones, width) + self.param("bias", nn.initializers.zeros, width)
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) over the last axis in fp32, times a gain; returned in the dtype of the input."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.param("scale", nn.initializers.ones, (x.shape[-1],))).astype(x.dtype)


class ToVocabulary(nn.Module):
    """A dense layer to the logits of V tokens, sharded over devices by token, for any V.

    The kernel is stored by the sharding rules. For the matmul it is padded to a multiple of the shards; the padding's
    logits are -inf and, unless `padded`, removed.
    """

    vocab_size: int
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer
    use_bias: bool = True

    @nn.compact
    def __call__(self, h_BLD: jax.Array, padded: bool = False) -> jax.Array:
        """Returns fp32 logits (B, L, V), or (B, L, V rounded up) if padded."""
        kernel = self.param("kernel", self.kernel_init, (h_BLD.shape[-1], self.vocab_size))
        bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,)) if self.use_bias else None
        logits = vocabulary_logits(h_BLD.astype(self.dtype), kernel.astype(self.dtype), self.vocab_size)
        if bias is not None:
            logits = logits + jnp.pad(bias, (0, logits.shape[-1] - self.vocab_size)).astype(self.dtype)
        return finish_logits(logits, self.vocab_size, padded)


def vocabulary_logits(h_BLD: jax.Array, kernel_DV: jax.Array, vocab_size: int) -> jax.Array:
    """h W with W's columns padded to a multiple of the vocabulary's shards and sharded."""
    pad = -vocab_size % shards("vocabulary")
    kernel = shard_activations(jnp.pad(kernel_DV, ((0, 0), (0, pad))), None, "vocabulary")
    return shard_activations(h_BLD @ kernel, "batch", "length", "vocabulary")


def finish_logits(logits_BLV: jax.Array, vocab_size: int, padded: bool) -> jax.Array:
    """fp32 logits; those of padding are -inf or removed."""
    logits = logits_BLV.astype(jnp.float32)
    if logits.shape[-1] == vocab_size:
        return logits
    if not padded:
        return logits[..., :vocab_size]
    return jnp.where(jnp.arange(logits.shape[-1]) < vocab_size, logits, -jnp.inf)


def normalize(x: jax.Array, eps: float) -> jax.Array:
    """Returns x with zero mean and unit variance over its last axis, in fp32."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """AdaLN: LN(x) (1 + scale) + shift, the norm without gain and bias and in fp32 (SPEC 1.2)."""
    return (normalize(x, eps) * (1.0 + scale) + shift).astype(x.dtype)


def rope_table(positions: jax.Array, channels: int, theta: float) -> jax.Array:
    """Returns cos and sin, (..., 2, channels / 2) fp32, of the rotations at integer positions (...): once for all layers."""
    frequencies = theta ** (-jnp.arange(0, channels, 2, dtype=jnp.float32) / channels)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-2)


def rope_half(x_BNHK: jax.Array, table_BN2K: jax.Array) -> jax.Array:
    """Rotates channel i with channel i + R/2 ("rotate_half") among the first R = 2 * table.shape[-1], in fp32.

    The channels after them are unchanged.
    """
    return rotate_halves(x_BNHK, table_BN2K[:, :, None, 0], table_BN2K[:, :, None, 1])


def rotate_halves(x: jax.Array, cos: jax.Array, sin: jax.Array, axis: int = -1) -> jax.Array:
    """`rope_half` for any layout: cos and sin broadcast against the halves of the R channels, which are along `axis`."""
    half = cos.shape[axis]
    first, second, rest = jnp.split(x, [half, 2 * half], axis=axis)
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=axis)
    return jnp.concatenate([rotated.astype(x.dtype), rest], axis=axis)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU in its tanh form, 0.5 x (1 + tanh(c (x + 0.044715 x^3))), as x sigmoid(2 c (...)): a cheaper gradient."""
    return x * nn.sigmoid(2.0 * (2.0 / jnp.pi) ** 0.5 * (x + 0.044715 * x * x * x))


def time_features(t: jax.Array, frequencies: int, factor: float) -> jax.Array:
    """sin | cos of factor * t over exp(-ln(10000) i / frequencies) (SPEC 1.2). t: (...), in [0, 1] -> (..., 2 frequencies)."""
    rates = jnp.exp(-jnp.log(10_000.0) * jnp.arange(frequencies, dtype=jnp.float32) / frequencies)
    angles = factor * t.astype(jnp.float32)[..., None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def split_heads(x_BND: jax.Array, heads: int) -> jax.Array:
    """(B, N, heads * K) -> (B, N, heads, K)."""
    return x_BND.reshape(*x_BND.shape[:-1], heads, x_BND.shape[-1] // heads)


def merge_heads(x_BNHK: jax.Array) -> jax.Array:
    """(B, N, H, K) -> (B, N, H * K); N may be 0."""
    return x_BNHK.reshape(*x_BNHK.shape[:2], x_BNHK.shape[2] * x_BNHK.shape[3])


def stacked_init(block: nn.Module, layers: int, *example: Any) -> Callable[[jax.Array], Any]:
    """Returns an initialiser of the parameters of `layers` copies of a block, stacked on a leading axis."""

    def init(rng: jax.Array) -> Any:
        return jax.vmap(lambda key: block.init(key, *example)["params"])(jax.random.split(rng, layers))

    return init


def declare_blocks(model: nn.Module, block: nn.Module, layers: int, *example: Any) -> None:
    """Declares the parameters of a model's `layers` copies of `block`, which flax then compares with the given ones.

    Called in the model's `setup`.
    """
    if not isinstance(blocks_of(model), list):  # flax would report parameters split per layer as misshapen
        model.param("blocks", stacked_init(block, layers, *example))


def blocks_of(model: nn.Module) -> Any:
    """Returns the parameters that `declare_blocks` declared: stacked, or split by the caller with `split_layers`."""
    return model.get_variable("params", "blocks")


def layer_of(stacked: Any, index: int | slice) -> Any:
    """Returns layer `index` (or a slice of layers) of stacked parameters."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def split_layers(stacked: Any) -> list[Any]:
    """Returns stacked trees split per layer, as `over_layers` reads them if layers are unrolled.

    Done once outside a loop, it avoids a copy of every parameter in each iteration.
    """
    return [layer_of(stacked, index) for index in range(len(jax.tree.leaves(stacked)[0]))]


def zip_layers(*trees: Any, scan: bool) -> Any:
    """Zips trees, stacked or split per layer, for `over_layers`: one tuple per layer."""
    if scan:
        return trees
    return list(zip(*(tree if isinstance(tree, list) else split_layers(tree) for tree in trees)))


def over_layers(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, stacked: Any, *, scan: bool, remat: str
) -> tuple[Any, Any]:
    """Runs `carry, y = body(carry, layer)` over stacked layers. See ComputeConfig for scan and remat.

    stacked: trees with a leading layer axis, or the result of `split_layers`. Returns the carry and the ys, stacked if
    layers are scanned, a list if they are unrolled.
    """
    body = rematerialized(body, remat, looped=scan)
    if scan:
        return jax.lax.scan(body, carry, stacked)
    ys = []
    for layer in stacked if isinstance(stacked, list) else split_layers(stacked):
        carry, y = body(carry, layer)
        ys.append(y)
    return carry, ys


def rematerialized(body: Callable[..., Any], remat: str, looped: bool) -> Callable[..., Any]:
    """Returns `body` with the named rematerialisation policy.

    none: save all. minimal: save matmul outputs. full: save nothing. offload: save matmul outputs in host memory.

    looped: whether it is the body of a scan, in which the compiler cannot eliminate the recomputation by CSE anyway.
    """
    if remat == "none":
        return body
    policies = {
        "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "full": jax.checkpoint_policies.nothing_saveable,
        "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    }
    return jax.checkpoint(body, policy=policies[remat], prevent_cse=not looped)
