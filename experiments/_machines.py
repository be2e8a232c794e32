"""How the 2 B configs lie on machines: mesh and microbatches for the paper's 1408 rows of 512 tokens a step.

A machine is a TPU topology (`cola-jax compile --topology` has the same names) or nodes of eight GPUs. All of them split
parameters over every device (fsdp), which 2 B parameters want; `cola-jax compile` says what each needs.
"""

from cola_jax import config

MACHINES = {
    "v5p:2x2x4": dict(accumulate=4),
    "v5p:4x4x4": dict(accumulate=1),
    "v5e:8x8": dict(accumulate=11),
    "v5e:8x16": dict(accumulate=11),
    "v6e:8x8": dict(accumulate=2),
    "h100x8": dict(accumulate=8),
    "h100x64": dict(accumulate=1),
    "h200x8": dict(accumulate=4),
    "h200x64": dict(accumulate=1),
}


def place(c, machine: str):
    """Returns the config for a machine; "" leaves it as it is."""
    if not machine:
        return c
    if machine not in MACHINES:
        raise config.ConfigError(f"no preset for machine {machine!r}; there are {', '.join(MACHINES)}")
    c.mesh.update(replica=1, data=1, fsdp=-1, sequence=1, tensor=1)
    c.train.update(**MACHINES[machine])
    return c
