"""Sharding of activations: each names its logical axes, and the table of `config.axes` maps them to mesh axes.

The mesh is that of the surrounding trace (`jax.sharding.use_abstract_mesh`); without one nothing is sharded.
"""

from __future__ import annotations

import math

import jax
from jax.sharding import PartitionSpec as P

from cola_jax.config.axes import LOGICAL_AXES


def shards(axis: str) -> int:
    """Returns the number of shards of a logical axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape.get(name, 1) for name in LOGICAL_AXES[axis])


def shard_activations(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of `x` by the logical names of its axes; an axis not divisible by its shards is not sharded."""
    splits = [1 if axis is None else shards(axis) for axis in axes]
    if all(split == 1 for split in splits):
        return x
    fits = [split > 1 and size % split == 0 for split, size in zip(splits, x.shape, strict=True)]
    spec = P(*[LOGICAL_AXES[axis] if fit else None for axis, fit in zip(axes, fits)])
    return jax.lax.with_sharding_constraint(x, spec)
