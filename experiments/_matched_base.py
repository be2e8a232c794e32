"""Shared config of the models of one comparison: corpus, recipe, mesh (SPEC 2 and 5; the recipe is the base config's).

Configs built on it differ only where their families require it.
"""

from cola_jax import config


def matched(family: str, prepared: str):
    """The shared config of `family` on the corpus in the folder `prepared`."""
    c = config.base()
    c.family = family
    c.data.sources[0].update(kind="prepared", path=(prepared,))
    c.compute.update(remat="minimal", cross_entropy_chunk=128)
    c.mesh.update(data=1, fsdp=-1)
    return c
