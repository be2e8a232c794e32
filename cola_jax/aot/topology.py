"""Devices of a TPU topology for the compiler, or CPU devices of this process."""

from __future__ import annotations

import re

import jax
from jax.experimental import topologies

from cola_jax.parallel.mesh import MeshError

FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
)  # fmt: skip
TOPOLOGIES = {
    "v2": ("2x2", "4x4", "8x8", "16x16"),
    "v3": ("2x2", "4x4", "8x8", "16x16", "32x32"),
    "v4": CUBES,
    "v5e": ("1x1", *FLAT),
    "v5p": (*CUBES, "16x16x16", "16x16x24"),
    "v6e": ("1x1", *FLAT),
    "tpu7x": CUBES,
}


class TopologyError(MeshError):
    """A topology that does not exist or is not available; the message lists those that are."""


def known() -> str:
    """Returns one line with the known topologies of each generation."""
    lines = [f"  {generation}: {' '.join(sizes)}" for generation, sizes in TOPOLOGIES.items()]
    return "\n".join([*lines, "  several slices of one: v5e:16x16*4", "  cpu:N: N CPU devices of this process"])


def check(name: str) -> None:
    """Raises TopologyError if there is no topology of that name."""
    generation, _, size = name.partition(":")
    size, _, slices = size.partition("*")
    found = size in TOPOLOGIES.get(generation, ()) and re.fullmatch(r"([1-9]\d*)?", slices)
    if not found and not re.fullmatch(r"cpu:[1-9]\d*", name):
        raise TopologyError(f"topology {name!r} does not exist; those that do (chips along each axis):\n{known()}")


def devices_of(name: str) -> list[jax.Device]:
    """Returns the devices of a topology, e.g. "v5p:2x2x4"; "v5e:16x16*4" is four slices and "cpu:8" eight CPU devices.

    TPU devices are descriptions for the compiler: nothing runs on them, and none need be present.

    Raises:
      TopologyError: if there is no such topology, libtpu is not installed, or this process has fewer CPU devices.
    """
    check(name)
    if name.startswith("cpu:"):
        count, devices = int(name[4:]), jax.devices("cpu")
        if len(devices) < count:
            raise TopologyError(f"topology {name!r}: this process has {len(devices)} CPU devices")
        return devices[:count]
    shape, _, slices = name.partition("*")
    options = {"num_slices": int(slices)} if slices else {}
    if shape.startswith("v4"):
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device, as JAX has them
    if shape.endswith(":1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return list(topologies.get_topology_desc(shape, platform="tpu", **options).devices)
    except (RuntimeError, ValueError) as error:
        if "libtpu" in str(error) and "lockfile" not in str(error):
            raise TopologyError(
                f"topology {name!r}: its compiler is not installed (pip install 'cola_jax[tpu]'): {error}"
            ) from error
        raise
