"""What "auto" means on a platform, and which kernels support a config."""

from __future__ import annotations

import dataclasses

from cola_jax.config.errors import ConfigError
from cola_jax.config.families.facts import Attention
from cola_jax.config.fields import RunConfig
from cola_jax.config.sizes import attention

LANES = 128  # splash attention needs tiles and head channels that are multiples of this


def for_platform(c: RunConfig, platform: str) -> tuple[RunConfig, str]:
    """Returns the config with every "auto" of `compute` replaced by its value on a platform, and one line that reports
    the choice.

    Args:
      platform: cpu, gpu or tpu.

    Raises:
      ConfigError: if compute.attention names a kernel that does not support the config.
    """
    dtype = matmul_dtype(c.compute.dtype, platform)
    kernel, why = c.compute.attention, ""
    problem = kernel_problem(c, platform, "splash" if kernel == "auto" else kernel)
    if kernel == "auto":
        kernel = "xla" if problem else "splash"
        why = f" ({problem})" if problem and platform == "tpu" else ""
    elif problem:
        raise ConfigError(f"compute.attention={kernel!r}: {problem}; compute.attention='xla' supports everything")
    compute = dataclasses.replace(c.compute, dtype=dtype, attention=kernel)
    line = f"compute: {dtype} matmuls, attention by {kernel}{why}, remat {compute.remat}"
    return dataclasses.replace(c, compute=compute), line


def matmul_dtype(name: str, platform: str) -> str:
    """Returns compute.dtype, "auto" replaced: float32 on CPUs and bfloat16 elsewhere."""
    return name if name != "auto" else "float32" if platform == "cpu" else "bfloat16"


def kernel_problem(c: RunConfig, platform: str, kernel: str) -> str:
    """Returns why a kernel does not support the attention of a config's training step on a platform, or ""."""
    if kernel == "xla":
        return ""
    if kernel == "cudnn":
        return _cudnn_problem(c, platform)
    if platform != "tpu":
        return f"splash attention runs on TPUs, not on {platform}"
    if not all(part.masked for part in attention(c)):
        return "attention without a mask has nothing that splash attention could skip"
    return next(filter(None, (_splash_problem(c, part) for part in attention(c))), "")


def _cudnn_problem(c: RunConfig, platform: str) -> str:
    if platform != "gpu":
        return f"cuDNN runs on NVIDIA GPUs, not on {platform}"
    if c.compute.dtype == "float32":
        return "cuDNN supports bfloat16, not float32"
    if c.mesh.sequence != 1:
        return f"cuDNN needs the positions of a row on one device, not on mesh.sequence={c.mesh.sequence}"
    for name, _, length, block_size, head_dim, _ in attention(c):
        if length % 2:
            return f"{name} has rows of {length} positions, not an even number"
        if block_size % 2 and name == "the DiT":  # whole blocks of clean keys precede a chunk's own keys
            return f"{name} has blocks of {block_size}, not an even number"
        if head_dim % 8 or head_dim > 128:
            return f"{name} has heads of {head_dim} channels, not a multiple of 8 up to 128"
    return ""


def _splash_problem(c: RunConfig, part: Attention) -> str:
    name, _, length, block_size, head_dim, _ = part
    shards = max(c.mesh.sequence, 1)
    own = length // shards
    if length % (shards * LANES):
        return f"{name} has rows of {length} positions over mesh.sequence={shards}, not a multiple of {LANES} each"
    if block_size & (block_size - 1) or own % block_size:
        return f"{name} has blocks of {block_size}, not a power of two that divides the {own} positions of a device"
    if shards > 1 and own & (own - 1):
        return f"{name} has {own} positions per device, not a power of two"
    return f"{name} has heads of {head_dim} channels, not a multiple of {LANES}" if head_dim % LANES else ""


def without_kernels(c: RunConfig) -> RunConfig:
    """Returns the config for generation, whose shapes the training kernels do not support."""
    return dataclasses.replace(c, compute=dataclasses.replace(c.compute, attention="xla"))
