"""Sharding of parameters: one table from a parameter's path to the mesh axes of its dimensions.

A path is the keys of the parameter tree joined by "/". Stacked layers ("blocks") have a leading layer axis, never sharded.
Every path must match exactly one rule.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cola_jax.parallel.mesh import MeshError

Rules = tuple[tuple[str, P], ...]

RULES: Rules = (
    # Gains, biases and norms: too small to shard.
    (r"(encoder|decoder|dit|backbone)/(.*/)?(bias|scale)", P()),
    # (layers, in, out): the first matmul of a pair shards its output over tensor, the second its input.
    (r"(encoder|decoder|dit|backbone)/blocks/(qkv|ffn_in|mlp_in)/kernel", P(None, "fsdp", "tensor")),
    (r"(encoder|decoder|dit|backbone)/blocks/(attn_out|ffn_out|mlp_out)/kernel", P(None, "tensor", "fsdp")),
    (r"dit/blocks/ada_(attn|mlp)_(in|out)/kernel", P(None, "fsdp", "tensor")),
    # (V or V+1, D): the first is rarely divisible, so the width is sharded.
    (r"(encoder|backbone)/embedding", P(None, ("fsdp", "tensor"))),
    (r"encoder/patch/kernel", P("fsdp", "tensor")),
    (r"encoder/head/kernel", P("fsdp", None)),
    # (C, D) and (F, D): narrow inputs, not worth gathering over fsdp.
    (r"(decoder|dit)/input/kernel", P(None, "tensor")),
    (r"dit/time/in/kernel", P(None, "tensor")),
    (r"backbone/(input|self_condition|noise_level)/kernel", P(None, "tensor")),
    (r"embedding/table", P(None, "tensor")),
    (r"schedule/(lowest|highest|inner|bias|outer)", P()),
    (r"decoder/unpatch/kernel", P("fsdp", "tensor")),
    # (D, V): the same; it is sharded by token in the matmul (models.layers.ToVocabulary).
    (r"(decoder|backbone)/logits/kernel", P(("fsdp", "tensor"), None)),
    (r"dit/time/(hidden|out)/kernel", P("fsdp", "tensor")),
    (r"dit/output_ada/kernel", P("fsdp", "tensor")),
    (r"dit/output/kernel", P("fsdp", None)),
)


def path_of(key_path: tuple[Any, ...]) -> str:
    """Returns the keys of a tree path joined by "/"."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules | None = None) -> P:
    """Returns the mesh axes of one parameter by `rules`, RULES by default.

    Raises:
      MeshError: if no rule or several match, the rule has another number of dimensions, or an axis does not
        divide its dimension.
    """
    matches = [(pattern, spec) for pattern, spec in (RULES if rules is None else rules) if re.fullmatch(pattern, path)]
    if len(matches) != 1:
        said = "no sharding rule matches it" if not matches else f"rules {[p for p, _ in matches]} all match it"
        raise MeshError(f"parameter {path} {shape}: {said}; exactly one must match (parallel.rules.RULES)")
    pattern, spec = matches[0]
    if len(spec) and len(spec) != len(shape):
        raise MeshError(f"parameter {path} {shape}: rule {pattern!r} is for {len(spec)} dimensions, not {len(shape)}")
    for dimension, axes in enumerate(spec):
        names = (axes,) if isinstance(axes, str) else tuple(axes or ())
        split = math.prod(mesh.shape[name] for name in names)
        if shape[dimension] % split:
            fields = " and ".join(f"mesh.{name}={mesh.shape[name]}" for name in names)
            raise MeshError(
                f"parameter {path} {shape}: dimension {dimension} of size {shape[dimension]} does not divide over {split} "
                f"devices; change {fields} or the size"
            )
    return spec


def shardings(tree: Any, mesh: Mesh, rules: Rules | None = None) -> Any:
    """Returns a NamedSharding for every leaf of a parameter tree (arrays or their shapes), by its path.

    Raises:
      MeshError: see `spec_of`.
    """
    one = lambda key_path, leaf: NamedSharding(mesh, spec_of(path_of(key_path), leaf.shape, mesh, rules))
    return jax.tree_util.tree_map_with_path(one, tree)


def describe(tree: Any, tree_shardings: Any) -> str:
    """Returns a table: parameter, shape, sharding, bytes in total and on one device; the last line has the sums."""
    rows, total, total_local = [("parameter", "shape", "sharding", "bytes", "bytes/device")], 0, 0
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (key_path, leaf), sharding in zip(leaves, jax.tree.leaves(tree_shardings)):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        local = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        spec = ",".join("+".join(a) if isinstance(a, tuple) else a or "-" for a in sharding.spec) or "replicated"
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        rows.append((path_of(key_path), shape, spec, f"{size:,}", f"{local:,}"))
        total, total_local = total + size, total_local + local
    rows.append(("total", "", "", f"{total:,}", f"{total_local:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    line = lambda row: "  ".join(
        [cell.ljust(width) for cell, width in zip(row[:3], widths)]
        + [cell.rjust(width) for cell, width in zip(row[3:], widths[3:])]
    )
    return "\n".join(map(line, rows))
