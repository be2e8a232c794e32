"""How activations lie on the mesh: each names its axes, and the table of `config.axes` says what they are split over.

The mesh is the one that the surrounding trace was given (`jax.sharding.use_abstract_mesh`); without one nothing is split.
"""

from __future__ import annotations

import math

import jax
from jax.sharding import PartitionSpec as P

from cola_jax.config.axes import LOGICAL_AXES


def shards(axis: str) -> int:
    """Returns over how many devices a logical axis is split."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape.get(name, 1) for name in LOGICAL_AXES[axis])


def shard_activations(x: jax.Array, *axes: str | None) -> jax.Array:
    """Returns `x` laid out by the logical names of its axes; an axis that its shards do not divide stays whole."""
    splits = [1 if axis is None else shards(axis) for axis in axes]
    if all(split == 1 for split in splits):
        return x
    fits = [split > 1 and size % split == 0 for split, size in zip(splits, x.shape, strict=True)]
    spec = P(*[LOGICAL_AXES[axis] if fit else None for axis, fit in zip(axes, fits)])
    return jax.lax.with_sharding_constraint(x, spec)
