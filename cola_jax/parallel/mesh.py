"""The mesh of named axes of a run, and the sharding of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cola_jax.config.axes import BATCH_AXES as BATCH_AXES
from cola_jax.config.axes import MESH_AXES as AXES
from cola_jax.config.fields import DCNConfig, MeshConfig, RunConfig, TrainConfig
from cola_jax.config.sizes import attention, facts
from cola_jax.errors import UserError
from cola_jax.parallel import ambient


class MeshError(UserError):
    """Sizes that do not fit the devices, the batch or a parameter; the message names the field to change."""


def axis_sizes(cfg: MeshConfig, num_devices: int) -> tuple[int, ...]:
    """Returns the sizes of AXES on `num_devices` devices, -1 filled in.

    Raises:
      MeshError: if the product of the sizes is not the number of devices.
    """
    return _filled_in(cfg, "mesh", num_devices, "devices")


def sizes_across(cfg: DCNConfig, sizes: Sequence[int], slices: int) -> tuple[int, ...]:
    """Returns the factor of each of AXES, of these `sizes`, that spans slices, -1 filled in.

    Raises:
      MeshError: if their product is not the number of slices, or one does not divide its axis.
    """
    across = _filled_in(cfg, "mesh.dcn", slices, "slices")
    for axis, size, part in zip(AXES, sizes, across):
        if size % part:
            raise MeshError(
                f"mesh.{axis}={size}: the devices are in {slices} slices, and {part} parts of this axis span them "
                f"(mesh.dcn.{axis}={getattr(cfg, axis)}): it must be a multiple of {part}, or set mesh.dcn for other axes"
            )
    return across


def _filled_in(cfg: MeshConfig | DCNConfig, group: str, count: int, what: str) -> tuple[int, ...]:
    """Returns the sizes of AXES in a group of the config, which multiply to `count`, -1 filled in."""
    given = tuple(getattr(cfg, axis) for axis in AXES)
    said = ", ".join(f"{group}.{axis}={size}" for axis, size in zip(AXES, given))
    if given.count(-1) > 1 or any(size == 0 or size < -1 for size in given):
        raise MeshError(f"{said}: sizes must be positive, and at most one may be -1 (inferred)")
    known = math.prod(size for size in given if size != -1)
    if -1 in given and count % known == 0:
        return tuple(count // known if size == -1 else size for size in given)
    if known != count:
        need = f"a divisor of {count}" if -1 in given else f"{count}"
        there = f"there are {count} {what}" if count > 1 else f"there is one {what.removesuffix('s')}"
        raise MeshError(
            f"{said}: the given sizes multiply to {known}, but {there}; "
            f"the product must be {need}: change the largest of these fields"
        )
    return given


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over `devices` (all of them by default), axes AXES, types Auto.

    If the devices are in several slices, mesh.dcn defines which axes span them: the outer part of such an axis indexes
    slices, the inner part devices of one. On a TPU slice, axes are mapped to whole dimensions of its torus if possible;
    an axis that does not match a dimension uses part of one, and has fewer links.

    Raises:
      MeshError: if the product of the sizes is not the number of devices, or mesh.dcn does not fit the slices.
      AmbientError: see `ambient.check`.
    """
    ambient.check()
    devices = list(jax.devices() if devices is None else devices)
    sizes = axis_sizes(cfg, len(devices))
    slices = len({getattr(device, "slice_index", None) or 0 for device in devices})
    across = sizes_across(cfg.dcn, sizes, slices)
    inside = tuple(size // part for size, part in zip(sizes, across))
    if slices == 1:
        placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        placed = mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows sharded over the batch axes, everything else replicated."""
    return NamedSharding(mesh, P(BATCH_AXES))


def microbatch_sharding(mesh: Mesh) -> NamedSharding:
    """(microbatches, rows, ...): the rows of each microbatch sharded over the batch axes."""
    return NamedSharding(mesh, P(None, BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def check_batch(cfg: TrainConfig, mesh: Mesh) -> None:
    """Raises MeshError unless every device gets the same number of rows of every microbatch."""
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if cfg.batch_size % cfg.accumulate or (cfg.batch_size // cfg.accumulate) % shards:
        raise MeshError(
            f"train.batch_size={cfg.batch_size} in train.accumulate={cfg.accumulate} microbatches does not divide over "
            f"{'*'.join(BATCH_AXES)}={'*'.join(str(mesh.shape[axis]) for axis in BATCH_AXES)} devices: train.batch_size must "
            f"be a multiple of {cfg.accumulate * shards}"
        )


def check_model(cfg: RunConfig, mesh: Mesh) -> None:
    """Raises MeshError unless the tensor axis divides heads and feed-forwards, and the sequence axis whole blocks of a row."""
    tensor, sequence = mesh.shape["tensor"], mesh.shape["sequence"]
    split = facts(cfg).split_by_tensor(cfg)
    found = [f"{field}={size} by mesh.tensor={tensor}" for field, size in split.items() if size % tensor]
    for part in attention(cfg) if sequence > 1 else ():
        if part.length % (sequence * part.block_size):
            found.append(
                f"the {part.length} {part.positions} of a row by mesh.sequence={sequence} devices of whole blocks of "
                f"{part.block_size} ({part.name})"
            )
    if found:
        raise MeshError("the mesh does not divide the model: " + "; ".join(found))
