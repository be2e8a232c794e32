"""Peak FLOPs, memory and bandwidth of device kinds, from the manufacturers' data sheets."""

from __future__ import annotations

from typing import Any, NamedTuple

GiB = 2**30


class Chip(NamedTuple):
    """One JAX device.

    Attributes:
      flops: peak dense bf16 FLOPs per second.
      memory: bytes of memory available to programs.
      bandwidth: bytes per second between the device and its memory.
      clock: cycles per second of a TPU core, to convert the compiler's estimates to time; 0 if there are none.
    """

    flops: float
    memory: float
    bandwidth: float
    clock: float = 0.0


# TPUs by core, since a device has one core or two, by topology; memory is what the compiler makes available to programs.
TPU_CORES = {
    "TPU v2": Chip(22.5e12, 7.48 * GiB, 350e9, 0.7e9),
    "TPU v3": Chip(61.5e12, 15.48 * GiB, 450e9, 0.94e9),
    "TPU v4": Chip(137.5e12, 15.25 * GiB, 614e9, 1.05e9),
    "TPU v5 lite": Chip(197e12, 15.75 * GiB, 819e9, 1.5e9),
    "TPU v5": Chip(229.5e12, 47.87 * GiB, 1382e9, 1.75e9),
    "TPU v6 lite": Chip(918e12, 31.25 * GiB, 1640e9, 1.75e9),
    "TPU7x": Chip(1153.5e12, 94.75 * GiB, 3690e9, 2.2e9),
}
GPUS = {
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40 * GiB, 1555e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80 * GiB, 2039e9),
    "NVIDIA H100 PCIe": Chip(756e12, 80 * GiB, 2000e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80 * GiB, 3350e9),
    "NVIDIA H200": Chip(989e12, 141 * GiB, 4800e9),
    "NVIDIA B200": Chip(2250e12, 180 * GiB, 8000e9),
}


def chip_of(device: Any) -> Chip | None:
    """Returns the entry of a device, None if its kind is not in the tables."""
    if device.device_kind in TPU_CORES:
        cores, core = getattr(device, "num_cores", 1), TPU_CORES[device.device_kind]
        return Chip(cores * core.flops, cores * core.memory, cores * core.bandwidth, core.clock)
    return GPUS.get(device.device_kind)
