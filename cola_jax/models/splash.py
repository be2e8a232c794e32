"""The attention patterns on TPU splash attention: fully masked tiles are skipped, the rest are masked by arithmetic.

Axes: B batch, H heads, N positions, K head channels. Inputs and outputs are (B, N, H, K). On a mesh each device has its own
rows and heads; if positions are sharded too, queries stay, and keys and values of the clean stream are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec as P

from cola_jax.config.axes import BATCH_AXES
from cola_jax.config.kernels import LANES
from cola_jax.models import visibility

LARGEST_TILE = 512


@dataclass(frozen=True)
class Pattern(splash_attention.Mask):
    """Which keys a query attends to, by arithmetic on positions; block_size and own_keys are powers of two.

    Attributes:
      queries: N. keys: N clean ones, and after them, if noisy, `own_keys` noisy ones.
      noisy: queries are of the noisy stream: they attend to earlier clean blocks and their own noisy block; otherwise they
        are clean and attend to their own and earlier blocks.
      own_keys: noisy keys on one device, those of its own queries; may be larger on a device that has all.
    """

    queries: int
    block_size: int
    noisy: bool
    own_keys: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.queries, self.queries + (min(self.own_keys, self.queries) if self.noisy else 0)

    @property
    def q_sequence(self) -> np.ndarray:
        """Positions of the queries; the kernel uses this and `mask_function` instead of a stored mask."""
        return np.arange(self.queries, dtype=np.int32)

    def mask_function(self, q: Any, k: Any) -> Any:
        """Booleans for positions of queries and keys that broadcast against each other."""
        shift = self.block_size.bit_length() - 1
        q_block, k_block = q >> shift, k >> shift
        if not self.noisy:
            return visibility.block_causal(q_block, k_block)
        own = (q & (self.own_keys - 1)) >> shift  # of the queries' own device, in the numbering of its noisy keys
        past = visibility.earlier_block(q_block, k_block) & (k < self.queries)
        return past | (visibility.same_block(own, (k - self.queries) >> shift) & (k >= self.queries))

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (np.arange(size, dtype=np.int32)[part] for size, part in zip(self.shape, index))
        return self.mask_function(rows[:, None], columns[None, :])


def tile_of(length: int) -> int:
    """Returns the queries and keys of a tile: at most a quarter of a row, so that some can be skipped."""
    tile = LARGEST_TILE
    while tile > LANES and (length % tile or tile * 4 > length):
        tile //= 2
    return tile


def computed_pairs(length: int, block_size: int, noisy: bool) -> int:
    """Returns the query-key pairs of a row and head in the tiles that are computed, with the row on one device."""
    pattern, tile = _pattern(length, block_size, noisy, 1), tile_of(length)
    seen = pattern[slice(None), slice(None)]
    return int(seen.reshape(length // tile, tile, -1, tile).any(axis=(1, 3)).sum()) * tile * tile


def _pattern(length: int, block_size: int, noisy: bool, shards: int) -> Pattern:
    """own_keys is a power of two unless one device has all of them, where no query's position exceeds it."""
    own = length // shards
    return Pattern(length, block_size, noisy, own if shards > 1 else 1 << (length - 1).bit_length())


def block_causal(
    q: jax.Array, k: jax.Array, v: jax.Array, *, block_size: int, segments_BN: jax.Array | None, interpret: bool = False
) -> jax.Array:
    """Block-causal self-attention of one stream. Returns (B, N, H, K). interpret: run the kernel if there is no TPU."""
    return _attend(q, (k, v), None, block_size, segments_BN, interpret)


def clean_noisy(
    clean: tuple[jax.Array | None, jax.Array, jax.Array],
    noisy: tuple[jax.Array, jax.Array, jax.Array],
    *,
    block_size: int,
    segments_BN: jax.Array | None,
    interpret: bool = False,
) -> tuple[jax.Array | None, jax.Array]:
    """The training pass over [clean | noisy]; arguments and result as `attention.clean_noisy_attention`.

    The clean stream may lack its last block, which is not used: the kernel needs whole rows, so it is filled with zeros.
    """
    length = noisy[0].shape[1]
    behind = length - clean[1].shape[1]
    whole = lambda x: jnp.pad(x, ((0, 0), (0, behind), (0, 0), (0, 0)))
    keys = whole(clean[1]), whole(clean[2])
    noisy_out = _attend(noisy[0], keys, noisy[1:], block_size, segments_BN, interpret)
    if clean[0] is None:
        return None, noisy_out
    clean_out = _attend(whole(clean[0]), keys, None, block_size, segments_BN, interpret)
    return clean_out[:, : length - behind], noisy_out


def _attend(q_BNHK, clean, own, block_size, segments_BN, interpret):
    """Queries over clean keys and values and, if `own` has noisy ones, over those of their block."""
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {} if mesh.empty else dict(mesh.shape)
    heads, split = sizes.get("tensor", 1), sizes.get("sequence", 1)
    length = q_BNHK.shape[1]
    kernel = _kernel(
        _pattern(length, block_size, own is not None, split), length, q_BNHK.shape[2], heads, split, interpret
    )
    alone = math.prod(sizes.values()) == 1
    local = partial(_local, travel=split > 1)
    arguments = (q_BNHK * q_BNHK.shape[-1] ** -0.5, clean, own, segments_BN)
    if alone:
        return local(kernel, *arguments)
    row, place = P(BATCH_AXES, "sequence", "tensor", None), P(BATCH_AXES, "sequence")
    specs = (row, (row, row), None if own is None else (row, row), None if segments_BN is None else place)
    info = kernel.manual_sharding_spec(jax.sharding.NamedSharding(mesh, P("tensor", "sequence")))
    return jax.shard_map(local, mesh=mesh, in_specs=(info, *specs), out_specs=row, check_vma=False)(kernel, *arguments)


def _kernel(
    pattern: Pattern, length: int, heads: int, head_shards: int, split: int, interpret: bool
) -> Callable[..., Any]:
    tile = tile_of(length // split)
    sizes = splash_attention.BlockSizes(
        block_q=tile, block_kv=tile, block_kv_compute=tile, block_q_dkv=tile, block_kv_dkv=tile,
        block_kv_dkv_compute=tile, block_q_dq=tile, block_kv_dq=tile,
    )  # fmt: skip
    mask = splash_attention.MultiHeadMask([pattern] * heads)
    make = partial(splash_attention.make_splash_mha, block_sizes=sizes, interpret=interpret)
    return make(mask, head_shards=head_shards, q_seq_shards=split)


def _local(kernel, q_BNHK, clean, own, segments_BN, *, travel):
    """One device's rows, heads and queries."""
    everywhere = lambda x: jax.lax.all_gather(x, "sequence", axis=1, tiled=True) if travel else x
    parts = [jax.tree.map(everywhere, clean)] + ([] if own is None else [own])
    k, v = (jnp.concatenate(streams, axis=1) for streams in zip(*parts))
    heads_first = lambda x: jnp.swapaxes(x, 1, 2)
    q, k, v = heads_first(q_BNHK), heads_first(k), heads_first(v)
    if segments_BN is None:
        return heads_first(jax.vmap(lambda q, k, v: kernel(q, k, v))(q, k, v))
    of_keys = [everywhere(segments_BN)] + ([] if own is None else [segments_BN])
    ids = splash_attention.SegmentIds(segments_BN, jnp.concatenate(of_keys, axis=1))
    return heads_first(jax.vmap(lambda q, k, v, ids: kernel(q, k, v, segment_ids=ids))(q, k, v, ids))
