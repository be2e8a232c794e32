"""Trains a tiny model a few steps on each of several meshes of eight CPU devices; prints the losses as JSON.

python train_on_meshes.py FAMILY PACKING MESH...    a mesh is data=2,fsdp=4; "one" is a single device
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny import batch_of, config, packed  # noqa: E402

from cola_jax.families import FAMILIES  # noqa: E402
from cola_jax.parallel.hosts import batch_putter  # noqa: E402
from cola_jax.parallel.mesh import make_mesh  # noqa: E402
from cola_jax.train.state import abstract_state, init_state  # noqa: E402
from cola_jax.train.step import train_step  # noqa: E402

SMALL = {
    "dit__num_layers": 2, "vae__encoder_blocks": 1, "vae__decoder_blocks": 1, "train__batch_size": 8,
    "optimizer__warmup_steps": 1, "optimizer__learning_rate": 1e-2, "compute__cross_entropy_chunk": 4,
}  # fmt: skip


def losses(family: str, packing: str, mesh: str, steps: int) -> list[float]:
    """Returns the loss of each step."""
    axes = {} if mesh == "one" else dict(pair.split("=") for pair in mesh.split(","))
    sizes = {"mesh__data": 1} | {f"mesh__{axis}": int(size) for axis, size in axes.items()}
    cfg = config(family=family, data__packing=packing, **SMALL, **sizes)
    devices = jax.devices()[:1] if mesh == "one" else jax.devices()
    built = make_mesh(cfg.mesh, devices)
    abstract = abstract_state(cfg, FAMILIES[family], built)
    state, put = init_state(cfg, FAMILIES[family], abstract), batch_putter(built, 8)
    step = train_step(cfg, FAMILIES[family], FAMILIES[family].training(cfg, 0).groups, built, abstract)
    found = []
    for index in range(steps):
        batch = packed(cfg, (8, 4), index) if packing == "best_fit" else batch_of(cfg, index)
        state, metrics = step(state, put(batch))
        found.append(float(metrics["loss"]))
    return found


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_disable_most_optimizations", True)
    name, packing, *meshes = sys.argv[1:]
    print(json.dumps({mesh: losses(name, packing, mesh, 3) for mesh in meshes}))
