"""The mesh of named axes that every run stands on, and how a batch lies on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cola_jax.config.fields import MeshConfig, TrainConfig

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # both split the rows of a batch


class MeshError(ValueError):
    """Sizes that do not fit the devices, the batch or a parameter; the message names the field to change."""


def axis_sizes(cfg: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """Returns the sizes of AXES on `num_devices` devices, -1 filled in.

    Raises:
      MeshError: where the sizes do not multiply to the number of devices.
    """
    given = tuple(getattr(cfg, axis) for axis in AXES)
    said = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, given))
    if given.count(-1) > 1 or any(size == 0 or size < -1 for size in given):
        raise MeshError(f"{said}: sizes are positive, and at most one is -1 (what is left)")
    known = math.prod(size for size in given if size != -1)
    if -1 in given and num_devices % known == 0:
        return tuple(num_devices // known if size == -1 else size for size in given)
    if known != num_devices:
        need = f"a divisor of {num_devices}" if -1 in given else f"{num_devices}"
        raise MeshError(
            f"{said}: the given sizes multiply to {known}, but there are {num_devices} devices; "
            f"the product must be {need}: change the largest of these fields"
        )
    return given


def make_mesh(cfg: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over `devices` (all of them by default), axes data, fsdp, tensor, types Auto.

    Raises:
      MeshError: where the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = axis_sizes(cfg, len(devices))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp, everything else whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


def microbatch_sharding(mesh: Mesh) -> NamedSharding:
    """(microbatches, rows, ...): the rows of each microbatch over data and fsdp."""
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
            f"data*fsdp={mesh.shape['data']}*{mesh.shape['fsdp']} devices: train.batch_size must be a multiple of "
            f"{cfg.accumulate * shards}"
        )
