"""The axes of the mesh, and which of them the axes of an activation are sharded over."""

from __future__ import annotations

MESH_AXES = ("replica", "data", "fsdp", "sequence", "tensor")  # slowest links first
BATCH_AXES = ("replica", "data", "fsdp")  # the rows of a batch are sharded over all three

# An activation names its axes by these, and None if it is never sharded.
LOGICAL_AXES: dict[str, tuple[str, ...]] = {
    "batch": BATCH_AXES,
    "length": ("sequence",),  # positions of a row
    "heads": ("tensor",),
    "hidden": ("tensor",),  # inside a feed-forward
    "vocabulary": ("tensor",),
}
