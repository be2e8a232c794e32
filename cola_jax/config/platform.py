"""What "auto" stands for on a kind of device."""

from __future__ import annotations

import dataclasses

from cola_jax.config.fields import RunConfig


def for_platform(c: RunConfig, platform: str) -> RunConfig:
    """Returns the config with every "auto" of `compute` replaced by what it means on a platform: cpu, gpu or tpu."""
    compute = c.compute
    if compute.dtype == "auto":
        compute = dataclasses.replace(compute, dtype="float32" if platform == "cpu" else "bfloat16")
    return dataclasses.replace(c, compute=compute)
