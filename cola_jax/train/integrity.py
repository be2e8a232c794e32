"""Whether a tree of arrays is the one that was meant: the same leaves, and the same bits in each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cola_jax.parallel.rules import path_of

Tree = Any


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
    """Returns one line for every missing, extra or misshapen leaf of `given`; an empty list where the trees match."""
    ours, theirs = leaves_by_path(given), leaves_by_path(expected)
    missing = [f"{p} is missing, expected {_form(theirs[p])}" for p in sorted(theirs.keys() - ours.keys())]
    extra = [f"{p} {_form(ours[p])} is not expected" for p in sorted(ours.keys() - theirs.keys())]
    shared = sorted(ours.keys() & theirs.keys())
    wrong = [
        f"{p} is {_form(ours[p])}, expected {_form(theirs[p])}" for p in shared if _form(ours[p]) != _form(theirs[p])
    ]
    return missing + extra + wrong


def _mix(x: jax.Array) -> jax.Array:
    """Returns sum_i bits_i (2 i + 1) mod 2^32: exact, and the same however the array is split over devices."""
    bits = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    size = bits.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(bits, unsigned).astype(jnp.uint32)
    position, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)


@jax.jit
def _mix_all(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _mix(leaf) for path, leaf in leaves.items()}


def fingerprints(leaves: dict[str, Any]) -> dict[str, int]:
    """Returns a 32-bit fingerprint of every leaf's bits; independent of mesh and sharding, computed where the leaf lies."""
    return {path: int(value) for path, value in jax.device_get(_mix_all(leaves)).items()}
