"""How the benchmarks time and print."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

MATMULS = 10  # per measurement, so that dispatch overhead is negligible


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Returns the shortest of `repeats` runs, after one that compiles; each run is waited for."""
    return interleave([run], repeats)[0]


def interleave(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Returns `seconds` of each run, interleaved: a temporary slowdown of the machine affects all of them."""
    times = []
    for _ in range(repeats + 1):
        times.append([])
        for run in runs:
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[-1].append(time.perf_counter() - start)
    return [min(of_run) for of_run in zip(*times[1:])]


def compiled(function: Callable, *arguments: object) -> tuple[Callable, float, float]:
    """Compiles once. Returns the executable, its GFLOPs by the compiler's count and its temporaries in MiB."""
    executable = jax.jit(function).lower(*arguments).compile()
    cost, memory = executable.cost_analysis() or {}, executable.memory_analysis()
    temporary = getattr(memory, "temp_size_in_bytes", 0) / 2**20
    return executable, cost.get("flops", float("nan")) / 1e9, temporary


def matmul_rate(size: int, repeats: int) -> float:
    """Returns the FLOPs per second of bf16 matmuls of (size, size) by (size, size) on the first device, MATMULS in sequence."""
    keys = jax.random.split(jax.random.PRNGKey(0))
    x, w = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)
    chain = jax.jit(lambda x, w: jax.lax.fori_loop(0, MATMULS, lambda _, y: y @ w, x))
    w = w / size**0.5  # products keep their magnitude
    return MATMULS * 2 * size**3 / seconds(lambda: chain(x, w), repeats)


def peak_device_memory(device: jax.Device) -> int:
    """Returns the peak bytes this process has allocated on a device; on a CPU, its peak resident memory."""
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def machine() -> str:
    """Returns one line that describes the hardware."""
    device = jax.devices()[0]
    chip = cpu_name() if device.platform == "cpu" else device.device_kind
    return f"{chip}, {os.cpu_count()} cores, {jax.device_count()} {device.platform} device(s), jax {jax.__version__}"


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory() -> str:
    """Returns the peak memory of this process."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
