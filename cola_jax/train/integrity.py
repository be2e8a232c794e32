"""Integrity of a tree of arrays: the same leaves, and the same bits in each."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from cola_jax.parallel.rules import path_of

Tree = Any
LARGE = 2**23  # elements


def leaves_by_path(tree: Tree) -> dict[str, Any]:
    """Returns {"a/b/c": leaf}."""
    return {path_of(key_path): leaf for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nested(leaves: dict[str, Any]) -> Tree:
    """Returns the nested dict that `leaves_by_path` flattened, for a tree of dicts."""
    tree: Tree = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _form(leaf: Any) -> str:
    return f"{jnp.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def tree_problems(given: Tree, expected: Tree) -> list[str]:
    """Returns one line for every missing, extra or misshapen leaf of `given`; an empty list if the trees match."""
    ours, theirs = leaves_by_path(given), leaves_by_path(expected)
    missing = [f"{p} is missing, expected {_form(theirs[p])}" for p in sorted(theirs.keys() - ours.keys())]
    extra = [f"{p} {_form(ours[p])} is not expected" for p in sorted(ours.keys() - theirs.keys())]
    shared = sorted(ours.keys() & theirs.keys())
    wrong = [
        f"{p} is {_form(ours[p])}, expected {_form(theirs[p])}" for p in shared if _form(ours[p]) != _form(theirs[p])
    ]
    return missing + extra + wrong


def _bits(x: jax.Array) -> jax.Array:
    """Returns the bits of every element as uint32; an element of 64 bits as two of them, on a new last axis."""
    bits = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(bits.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(bits, unsigned).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """Returns sum_i bits_i (2 i + 1) mod 2^32: exact, and independent of how the array is sharded."""
    bits = _bits(x)
    position, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)


def _mix_by_layer(x: jax.Array) -> jax.Array:
    """Returns `_mix`, with the temporaries of one layer: positions in layer i are those in layer 0 and i sizes of a layer."""
    if x.ndim < 3:
        return _mix(x)
    stride = jnp.uint32(2 * math.prod(x.shape[1:]) * max(1, x.dtype.itemsize // 4) % 2**32)

    def add(total: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        index, values = layer
        return total + _mix(values) + index * stride * jnp.sum(_bits(values), dtype=jnp.uint32), None

    return jax.lax.scan(add, jnp.uint32(0), (jnp.arange(x.shape[0], dtype=jnp.uint32), x))[0]


@jax.jit
def _mix_all(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _mix_by_layer(leaf) for path, leaf in leaves.items()}


def fingerprints(leaves: dict[str, Any]) -> dict[str, int]:
    """Returns a 32-bit fingerprint of every leaf's bits; independent of mesh and sharding, computed on the leaf's devices.

    Large leaves are processed one by one: a single program would need their total size as temporaries.
    """
    large = {path for path, leaf in leaves.items() if leaf.size > LARGE}
    prints = jax.device_get(_mix_all({path: leaf for path, leaf in leaves.items() if path not in large}))
    for path in sorted(large):
        prints |= jax.device_get(_mix_all({path: leaves[path]}))
    return {path: int(prints[path]) for path in leaves}
