"""Mesh and microbatches of the 2 B configs by machine, for the paper's 1408 rows of 512 tokens per step.

A machine is a TPU topology (`cola-jax compile --topology` has the same names) or nodes of eight GPUs. 2 B parameters must be
sharded: over all devices of a TPU slice or of a node (fsdp), and replicated in every node (replica), so that only gradients
are communicated between nodes. `cola-jax compile` reports the memory of each.
"""

from cola_jax import config

MACHINES = {
    "v5p:2x2x4": dict(accumulate=4, replica=1),
    "v5p:4x4x4": dict(accumulate=1, replica=1),
    "v5e:8x8": dict(accumulate=11, replica=1),
    "v5e:8x16": dict(accumulate=11, replica=1),
    "v6e:8x8": dict(accumulate=2, replica=1),
    "h100x8": dict(accumulate=8, replica=1),
    "h100x64": dict(accumulate=1, replica=8),
    "h200x8": dict(accumulate=4, replica=1),
    "h200x64": dict(accumulate=1, replica=8),
}


def place(c, machine: str):
    """Returns the config for a machine; "" leaves it as it is."""
    if not machine:
        return c
    if machine not in MACHINES:
        raise config.ConfigError(f"no preset for machine {machine!r}; known are {', '.join(MACHINES)}")
    preset = MACHINES[machine]
    c.mesh.update(replica=preset["replica"], data=1, fsdp=-1, sequence=1, tensor=1)
    c.train.accumulate = preset["accumulate"]
    return c
